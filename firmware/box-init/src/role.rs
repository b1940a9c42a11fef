//! One program, several roles: by number of the process, by name, by argument.

use std::convert::Infallible;
use std::error::Error;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;

use crate::addresses::DhcpEvent;
use crate::control;
use crate::host::exec::{self, Spec};
use crate::host::kmod::Modules;
use crate::host::notify;

/// What a process of this program is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Role {
    /// PID 1.
    Init,
    /// On its way to become a service; what it is to become.
    Service(String),
    /// The DHCP client's script; its argument.
    DhcpScript(String),
    /// What the kernel runs when it misses a module; the module or an alias of it.
    Modprobe(String),
    /// Asks PID 1; the request.
    Ask(String),
    /// None.
    Unknown,
}

impl Role {
    /// From the process's number and its arguments, its name the first of them.
    #[must_use]
    pub fn of(pid: u32, arguments: &[String]) -> Self {
        let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
        match words.as_slice() {
            _ if pid == 1 => Self::Init,
            [_, verb, spec] if *verb == exec::VERB => Self::Service((*spec).to_owned()),
            [name, argument, ..] if name.ends_with("dhcp-script") => {
                Self::DhcpScript((*argument).to_owned())
            }
            [name, .., module] if name.ends_with("modprobe") => {
                Self::Modprobe((*module).to_owned())
            }
            [_, "ask", request] => Self::Ask((*request).to_owned()),
            _ => Self::Unknown,
        }
    }
}

/// Becomes a service.
///
/// # Errors
/// Which step failed.
pub fn become_service(spec: &str) -> Result<Infallible, Box<dyn Error>> {
    let spec: Spec = serde_json::from_str(spec)?;
    spec.run().map_err(|error| telemetry::chain(&error).into())
}

/// Says to PID 1 what the DHCP client was told.
///
/// # Errors
/// PID 1 does not listen.
pub fn tell_dhcp(argument: &str) -> Result<(), Box<dyn Error>> {
    match DhcpEvent::read(argument, |name| std::env::var(name).ok()) {
        Some(event) => notify::tell_dhcp(&event).map_err(Into::into),
        None => Ok(()),
    }
}

/// Loads a module that the kernel misses, of those that the image has.
///
/// # Errors
/// It is not there, or does not load.
pub fn modprobe(module: &str) -> Result<(), Box<dyn Error>> {
    let is_there = Modules::open().load(module);
    if is_there { Ok(()) } else { Err(format!("there is no module {module}").into()) }
}

/// Asks PID 1, and returns its reply as it came.
///
/// # Errors
/// PID 1 does not answer.
pub fn ask(request: &str) -> Result<String, Box<dyn Error>> {
    let mut stream = UnixStream::connect(control::SOCKET)?;
    stream.write_all(format!("{request}\n").as_bytes())?;
    let mut reply = String::new();
    BufReader::new(stream).read_line(&mut reply)?;
    Ok(reply.trim_end().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles_are_told_apart() {
        let role = |pid, words: &[&str]| {
            Role::of(pid, &words.iter().map(|&word| word.to_owned()).collect::<Vec<_>>())
        };
        assert_eq!(role(1, &["/init", "exec", "{}"]), Role::Init);
        assert_eq!(role(7, &["box-init", "exec", "{}"]), Role::Service("{}".to_owned()));
        assert_eq!(
            role(7, &["/run/init/dhcp-script", "bound"]),
            Role::DhcpScript("bound".to_owned())
        );
        assert_eq!(
            role(7, &["/run/init/modprobe", "-q", "--", "fs-ext4"]),
            Role::Modprobe("fs-ext4".to_owned())
        );
        assert_eq!(role(7, &["box-init", "ask", "{}"]), Role::Ask("{}".to_owned()));
        assert_eq!(role(7, &["box-init"]), Role::Unknown);
    }
}
