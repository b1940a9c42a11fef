//! In a network namespace of their own, which they make and which ends with them.

use std::sync::mpsc::sync_channel;

use nix::sched::{CloneFlags, unshare};

use super::*;

/// Runs in a thread whose network is its own.
fn apart(test: impl FnOnce() + Send + 'static) {
    let (done, over) = sync_channel(1);
    let thread = std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).expect("this test needs root");
        test();
        let _ = done.send(());
    });
    let _ = over.recv();
    thread.join().unwrap();
}

fn bridge() {
    box_net::join("br0", &[]).unwrap();
}

fn wanted(address: [u8; 4], gateway: Option<[u8; 4]>) -> Wanted {
    Wanted {
        ipv4: Some((address.into(), 24)),
        gateway: gateway.map(Ipv4Addr::from),
        ..Wanted::default()
    }
}

fn v4() -> Vec<String> {
    addresses("br0").into_iter().filter(|address| !address.contains(':')).collect()
}

fn routes() -> Vec<String> {
    let mut netlink = Netlink::open().unwrap();
    let found = netlink.default_routes(index_of("br0").unwrap()).unwrap();
    let gateways = found.iter().flat_map(|route| &route.attributes).filter_map(|a| match a {
        RouteAttribute::Gateway(RouteAddress::Inet(gateway)) => Some(gateway.to_string()),
        _ => None,
    });
    gateways.collect()
}

#[test]
fn the_bridge_has_what_is_wanted_and_nothing_else() {
    apart(|| {
        bridge();
        apply_to("br0", &wanted([192, 0, 2, 7], Some([192, 0, 2, 1]))).unwrap();
        assert_eq!(
            (v4(), routes()),
            (vec!["192.0.2.7/24".to_owned()], vec!["192.0.2.1".to_owned()])
        );
        // Again: nothing changes. Another: the former goes.
        apply_to("br0", &wanted([192, 0, 2, 7], Some([192, 0, 2, 1]))).unwrap();
        apply_to("br0", &wanted([198, 51, 100, 9], Some([203, 0, 113, 1]))).unwrap();
        assert_eq!(v4(), ["198.51.100.9/24"]);
        assert_eq!(routes(), ["203.0.113.1"]);
        apply_to("br0", &wanted([198, 51, 100, 9], None)).unwrap();
        assert_eq!((v4().len(), routes().len()), (1, 0));
        apply_to("br0", &Wanted::default()).unwrap();
        assert!(v4().is_empty());
    });
}

#[test]
fn interfaces_get_their_names() {
    apart(|| {
        rename("lo", "wan0").unwrap();
        assert!(index_of("wan0").is_ok() && index_of("lo").is_err());
        let error = rename("eth9", "lan0").unwrap_err();
        assert_eq!(error.to_string(), "find interface eth9");
    });
}
