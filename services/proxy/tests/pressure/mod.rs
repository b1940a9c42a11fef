//! Who is slow makes the other side wait, and the proxy holds no more than its bound meanwhile.

use std::net::SocketAddr;

use proxy::SESSION_BYTES_MAX;
use tokio::io::{
    AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufReader,
};

use super::*;

/// Far more than may stand anywhere.
const MUCH_BYTES: usize = 64 << 20;
/// Nothing was taken for so long: who is only slow has taken something by then.
const STUCK_AFTER: Duration = Duration::from_secs(1);

/// What the kernel may hold of one connection, at both of its ends: tcp(7), `tcp_rmem`, `tcp_wmem`.
fn kernel_bytes_max() -> usize {
    let limits = ["tcp_rmem", "tcp_wmem"].map(|name| {
        let text = std::fs::read_to_string(format!("/proc/sys/net/ipv4/{name}")).unwrap();
        text.split_whitespace().next_back().unwrap().parse::<usize>().unwrap()
    });
    limits.iter().sum()
}

/// Lines without end, from this place on.
fn lines(from: usize) -> &'static [u8] {
    const LINE: &[u8] =
        b"A line of a mail that nobody reads, or not at the moment, as the case may be.\r\n";
    &LINE[from % LINE.len()..]
}

/// Writes until nothing more is taken, or much was; gives how much.
async fn write_until_stuck(stream: &mut (impl AsyncWrite + Unpin)) -> usize {
    let mut taken = 0;
    while taken < MUCH_BYTES {
        let written = async {
            let written = stream.write(lines(taken)).await?;
            stream.flush().await?;
            std::io::Result::Ok(written)
        };
        // What a flush waits for was taken too: a line at most.
        match tokio::time::timeout(STUCK_AFTER, written).await {
            Ok(written) => taken += written.unwrap(),
            Err(_) => break,
        }
    }
    taken
}

/// Reads to the end of a mail and gives its bytes.
async fn read_mail(stream: &mut (impl AsyncRead + Unpin)) -> usize {
    let (mut all, mut buffer, mut tail) = (0, vec![0; 64 * 1024], Vec::new());
    while !tail.ends_with(b"\r\n.\r\n") {
        let read = stream.read(&mut buffer).await.unwrap();
        assert!(read > 0, "the mail breaks off");
        all += read;
        tail.extend_from_slice(&buffer[..read]);
        tail.drain(..tail.len().saturating_sub(5));
    }
    all
}

/// Up to the mail server's 354; gives its end, and the client's.
async fn up_to_data(
    lab: &Lab,
    listener: &TcpListener,
    address: SocketAddr,
) -> (BufReader<TcpStream>, BufReader<link::SessionStream>) {
    let mut played = lab.admitted().await;
    let (_, accepted) = tokio::join!(played.opened(address), listener.accept());
    let mut server = BufReader::new(accepted.unwrap().0);
    let mut client = BufReader::new(played.link.into_session());
    let mut line = String::new();
    server.write_all(b"220 mail.example\r\n").await.unwrap();
    client.read_line(&mut line).await.unwrap();
    for (command, reply) in [
        ("EHLO pc.example\r\n", "250 mail.example\r\n"),
        ("MAIL FROM:<a@example.org>\r\n", "250 2.1.0 ok\r\n"),
        ("RCPT TO:<b@example.org>\r\n", "250 2.1.5 ok\r\n"),
        ("DATA\r\n", "354 go on\r\n"),
    ] {
        client.write_all(command.as_bytes()).await.unwrap();
        client.flush().await.unwrap();
        line.clear();
        server.read_line(&mut line).await.unwrap();
        assert_eq!(line, command);
        server.write_all(reply.as_bytes()).await.unwrap();
        line.clear();
        client.read_line(&mut line).await.unwrap();
        assert_eq!(line, reply);
    }
    (server, client)
}

async fn a_server_that_does_not_read_stops_its_client(tables: &str) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let lab = Lab::start_with(address, tables, |_| {}).await;
    let (mut server, mut client) = up_to_data(&lab, &listener, address).await;
    let taken = write_until_stuck(&mut client).await;
    // Two connections: from the box, and to the mail server. The played box holds as much as a proxy.
    let bound = 2 * SESSION_BYTES_MAX + 2 * kernel_bytes_max();
    assert!(taken <= bound, "{taken} bytes were taken, where {bound} have room");
    // When it reads on, so does everything: the mail arrives whole.
    let ending = async {
        let rest = MUCH_BYTES / 4;
        let mut sent = taken;
        while sent < taken + rest {
            sent += client.write(lines(sent)).await.unwrap();
        }
        client.write_all(b"\r\n.\r\n").await.unwrap();
        client.flush().await.unwrap();
        sent
    };
    let (sent, arrived) = tokio::join!(ending, read_mail(&mut server));
    // A line that a flush was waiting for may be among it.
    let whole = sent + b"\r\n.\r\n".len();
    assert!((whole..whole + 2 * lines(0).len()).contains(&arrived), "{arrived} of {whole}");
    server.write_all(b"250 2.0.0 taken\r\n").await.unwrap();
    let mut reply = String::new();
    client.read_line(&mut reply).await.unwrap();
    assert_eq!(reply, "250 2.0.0 taken\r\n");
}

#[tokio::test]
async fn a_server_that_does_not_read_stops_the_client_of_a_scanned_session() {
    a_server_that_does_not_read_stops_its_client("").await;
}

#[tokio::test]
async fn a_server_that_does_not_read_stops_the_client_of_an_unread_session() {
    a_server_that_does_not_read_stops_its_client("[scan]\nmode = \"off\"\n").await;
}

#[tokio::test]
async fn a_client_that_does_not_read_stops_its_server() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let lab = Lab::start_with(address, "[scan]\nmode = \"off\"\n", |_| {}).await;
    let mut played = lab.admitted().await;
    let (_, accepted) = tokio::join!(played.opened(address), listener.accept());
    let (mut server, mut client) = (accepted.unwrap().0, played.link.into_session());
    let taken = write_until_stuck(&mut server).await;
    let bound = 2 * SESSION_BYTES_MAX + 2 * kernel_bytes_max();
    assert!(taken <= bound, "{taken} bytes were taken, where {bound} have room");
    let mut read = vec![0; taken];
    let reading = tokio::time::timeout(PATIENCE, client.read_exact(&mut read));
    reading.await.expect("it does not go on").unwrap();
    assert!(read.starts_with(lines(0)));
}
