//! The bridge of the two ports: there before the interceptor, and there after it.

use nix::errno::Errno;
use nix::libc;
use pnet::datalink;

use crate::OpenError;
use crate::sys::{Control, NAME_BYTES_MAX};
use crate::table::Interface;

/// What there is to know of an interface.
#[derive(Debug, Clone)]
pub(crate) struct Found {
    pub(crate) interface: Interface,
    pub(crate) mac: [u8; 6],
}

/// Looks an interface up by name.
pub(crate) fn find(name: &str) -> Result<Found, OpenError> {
    if name.is_empty() || name.len() > NAME_BYTES_MAX {
        return Err(OpenError::Name { name: name.to_owned() });
    }
    let found = datalink::interfaces()
        .into_iter()
        .find(|interface| interface.name == name)
        .ok_or_else(|| OpenError::NoInterface { name: name.to_owned() })?;
    Ok(Found {
        mac: found.mac.map_or([0; 6], |mac| mac.octets()),
        interface: Interface { name: found.name, index: found.index },
    })
}

/// Sees to it that `bridge` exists, has both ports, and that all three are up. What is so already is
/// left as it is, so that starting again does not interrupt the line.
pub(crate) fn ensure(control: &Control, bridge: &str, ports: &[&Found]) -> Result<(), OpenError> {
    match find(bridge) {
        Ok(_) => {}
        Err(OpenError::NoInterface { .. }) => {
            control.create_bridge(bridge).map_err(|source| OpenError::Bridge {
                step: "create",
                name: bridge.to_owned(),
                source,
            })?;
            tracing::info!(bridge, "bridge created");
        }
        Err(other) => return Err(other),
    }
    let members = control.bridge_ports(bridge).map_err(|source| match source {
        Errno::EOPNOTSUPP => OpenError::NoBridge { name: bridge.to_owned() },
        source => OpenError::Bridge { step: "read", name: bridge.to_owned(), source },
    })?;
    for port in ports {
        let index = port.interface.index;
        if !members.iter().any(|&member| u32::try_from(member) == Ok(index)) {
            control.add_to_bridge(bridge, index).map_err(|source| match source {
                Errno::EBUSY => OpenError::PortElsewhere { name: port.interface.name.clone() },
                source => {
                    OpenError::Bridge { step: "add a port to", name: bridge.to_owned(), source }
                }
            })?;
            tracing::info!(bridge, port = port.interface.name, "port added");
        }
        bring_up(control, &port.interface.name)?;
    }
    bring_up(control, bridge)
}

pub(crate) fn bring_up(control: &Control, name: &str) -> Result<(), OpenError> {
    control.set_flags(name, libc::IFF_UP).map_err(|source| OpenError::Interface {
        step: "bring up",
        name: name.to_owned(),
        source,
    })
}
