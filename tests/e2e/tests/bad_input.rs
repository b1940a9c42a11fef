//! Rubbish from the internet on every public port of a site.
#![allow(clippy::tests_outside_test_module, reason = "an integration test is all tests")]

use std::{
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use e2e::{
    clock::wait_for, figures::resident_kib, in_product_lab, message::noise, plan, scenarios,
};

/// Rounds of all rubbish on each port.
const ROUNDS: usize = 50;
/// Most that a server may keep of it, in KiB: the allocator's own habits.
const KEPT_KIB_MAX: u64 = 8 * 1024;
/// Longest that a server may keep a connection that began with rubbish.
const CLOSE_MAX: Duration = Duration::from_secs(15);

#[test]
fn garbage_on_every_port_is_logged_with_its_peer_and_forgotten() {
    in_product_lab(|lab| {
        let ports: Vec<(String, SocketAddr)> = lab.sites()[0]
            .public_ports()
            .into_iter()
            .map(|(name, address)| (name.to_owned(), address))
            .collect();
        let site = lab.sites()[0].name().to_owned();
        for (name, address) in ports {
            lab.mail_netns().within(|| throw_rubbish(address))?.with_context(|| name.clone())?;
            let (id, _) = lab.site(&site)?.server(&name)?;
            let before = resident_kib(id)?;
            for _ in 0..ROUNDS {
                lab.mail_netns()
                    .within(|| throw_rubbish(address))?
                    .with_context(|| name.clone())?;
            }
            let (id, log) = lab.site(&site)?.server(&name)?;
            let kept = resident_kib(id)?.saturating_sub(before);
            ensure!(kept <= KEPT_KIB_MAX, "{name} kept {kept} KiB");
            let peer = plan::MAIL.to_string();
            ensure!(log.contains(&peer), "{name} did not log who sent rubbish:\n{log}");
        }
        scenarios::clean_out(lab).map(drop)
    });
}

#[test]
fn silent_connections_do_not_keep_others_out() {
    in_product_lab(|lab| {
        let ports: Vec<SocketAddr> =
            lab.sites()[0].public_ports().into_iter().map(|(_, address)| address).collect();
        let connect = || -> Result<Vec<TcpStream>> {
            let all = ports.iter().flat_map(|port| std::iter::repeat_n(port, 100));
            all.map(|port| Ok(TcpStream::connect(port)?)).collect()
        };
        let silent = lab.mail_netns().within(connect)??;
        let done = scenarios::short_out(lab, "Beside silent connections")?;
        ensure!(done.way.site().is_some(), "the way was {}", done.way);
        wait_for("the silent connections to be closed", CLOSE_MAX, || {
            silent.iter().all(is_closed).then_some(())
        })
    });
}

/// Opens a connection for each kind of rubbish, and sees each closed by the server.
fn throw_rubbish(address: SocketAddr) -> Result<()> {
    let mut hello_cut_short = vec![22, 3, 1, 2, 0, 1, 0, 1, 252];
    hello_cut_short.extend(noise(100));
    let rubbish = [
        Vec::new(),
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(),
        b"EHLO pc\r\n".to_vec(),
        noise(100_000),
        hello_cut_short,
        vec![22, 3, 1, 0xff, 0xff],
        vec![0; 4096],
    ];
    for bytes in rubbish {
        let mut stream = TcpStream::connect(address)?;
        // The server may have closed before it was all written: that is its right.
        let _ = stream.write_all(&bytes);
        let _ = stream.shutdown(Shutdown::Write);
        stream.set_read_timeout(Some(CLOSE_MAX))?;
        let mut answer = Vec::new();
        match stream.read_to_end(&mut answer) {
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                anyhow::bail!("still open {CLOSE_MAX:?} after {} bytes of rubbish", bytes.len())
            }
            _ => {}
        }
    }
    Ok(())
}

fn is_closed(stream: &TcpStream) -> bool {
    let mut byte = [0];
    let _ = stream.set_nonblocking(true);
    match stream.peek(&mut byte) {
        Ok(count) => count == 0,
        Err(error) => error.kind() != std::io::ErrorKind::WouldBlock,
    }
}
