//! Measures what idle session streams cost: `cargo run --release -p link --example idle_memory`.
#![allow(clippy::print_stdout, reason = "a program for a person to read")]

use std::sync::Arc;
use std::time::Duration;

use link::{Acceptor, connect};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use wire::identity::{DeviceKey, FleetCa, FleetRoots, Role, device_client_config, server_config};

const PAIRS: usize = 1000;
const TIMEOUT: Duration = Duration::from_secs(20);

fn main() -> anyhow::Result<()> {
    // One thread, so that the allocator keeps one arena.
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(measure())
}

async fn measure() -> anyhow::Result<()> {
    let ca = FleetCa::create()?;
    let (certificate, key) = ca.issue(&[Role::Proxy], "measured")?;
    let ca_pem = ca.certificate_pem();
    let tls = server_config(&ca_pem, &certificate, key.expose())?;
    let acceptor = Acceptor::new(tls, FleetRoots::from_pem(&ca_pem)?);
    let client = device_client_config(&ca_pem, &DeviceKey::generate()?)?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let mut pairs = Vec::with_capacity(PAIRS);
    let mut before = 0;
    for number in 0..PAIRS + 20 {
        if number == 20 {
            // What is made once is made by now.
            before = resident_bytes()?;
        }
        let accepted = async {
            let (socket, _) = listener.accept().await?;
            anyhow::Ok(acceptor.accept(socket, TIMEOUT).await?)
        };
        let (near, far) =
            tokio::join!(connect(address, Role::Proxy, Arc::clone(&client), TIMEOUT), accepted);
        let (mut near, mut far) = (near?.into_session(), far?.into_session());
        // Each has carried something before it fell idle.
        near.write_all(&[b'x'; 100_000]).await?;
        let mut read = vec![0; 100_000];
        far.read_exact(&mut read).await?;
        far.write_all(b"250 ok\r\n").await?;
        near.read_exact(&mut [0; 8]).await?;
        // Both ask for more, as an idle relay does.
        for stream in [&mut near, &mut far] {
            tokio::select! {
                biased;
                _ = stream.read(&mut read) => {}
                () = std::future::ready(()) => {}
            }
        }
        pairs.push((near, far));
    }
    let bytes = resident_bytes()?.saturating_sub(before);
    println!("{} bytes for one idle pair of session streams", bytes / PAIRS as u64);
    Ok(())
}

/// proc_pid_status(5): `VmRSS`, in KiB.
fn resident_bytes() -> anyhow::Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let number = line.and_then(|line| line.split_whitespace().next());
    Ok(number.ok_or_else(|| anyhow::anyhow!("no VmRSS"))?.parse::<u64>()? * 1024)
}
