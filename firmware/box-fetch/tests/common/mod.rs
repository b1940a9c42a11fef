//! Web servers: one that does what a test says, and Debian's nginx.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use box_fetch::{Client, Limits, Names, Trust};

/// Knows no names: servers of tests have addresses.
pub(crate) struct NoNames;

impl Names for NoNames {
    async fn addresses(&self, host: &str) -> Result<Vec<IpAddr>, String> {
        match host {
            "updates.test" => Ok(vec![Ipv4Addr::LOCALHOST.into()]),
            _ => Err("there is no such name".to_owned()),
        }
    }
}

/// For a machine that does much else; what is to run out is set by the test.
pub(crate) fn limits() -> Limits {
    let long = Duration::from_secs(60);
    Limits { connect: long, head: long, silence: long, window: long, window_bytes_min: 1 }
}

pub(crate) fn client(limits: Limits, trust: Option<Trust>) -> Client<NoNames> {
    Client::new(NoNames, trust, limits)
}

/// What a request asked for.
#[derive(Debug, Clone, Default)]
pub(crate) struct Asked {
    /// First byte of its `Range`.
    pub(crate) from: Option<usize>,
    pub(crate) if_range: Option<String>,
}

/// A server that answers each connection as the test says.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl Server {
    pub(crate) fn start(
        mut answer: impl FnMut(usize, &Asked, &mut TcpStream) + Send + 'static,
    ) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let server = Self { address: listener.local_addr().unwrap(), asked: Arc::default() };
        let asked = Arc::clone(&server.asked);
        std::thread::spawn(move || {
            for (number, stream) in listener.incoming().enumerate() {
                let mut stream = stream.unwrap();
                let mut now = Asked::default();
                for line in BufReader::new(&stream).lines().map_while(Result::ok) {
                    if line.is_empty() {
                        break;
                    }
                    if let Some(range) = line.strip_prefix("Range: bytes=") {
                        now.from = Some(range.trim_end_matches('-').parse().unwrap());
                    }
                    now.if_range =
                        now.if_range.or(line.strip_prefix("If-Range: ").map(str::to_owned));
                }
                asked.lock().unwrap().push(now.clone());
                answer(number, &now, &mut stream);
            }
        });
        server
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/a.update.tar", self.address)
    }

    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }
}

/// The whole file with this tag, cut behind so many of its bytes.
pub(crate) fn whole(stream: &mut TcpStream, file: &[u8], tag: &str, most: usize) {
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nETag: {tag}\r\n\r\n", file.len());
    let _ = stream.write_all(head.as_bytes());
    let _ = stream.write_all(&file[..most.min(file.len())]);
}

/// The rest of it from there on.
pub(crate) fn rest(stream: &mut TcpStream, file: &[u8], tag: &str, from: usize, most: usize) {
    let head = format!(
        "HTTP/1.1 206 Partial Content\r\nContent-Length: {}\r\nContent-Range: bytes {from}-{}/{}\r\n\
         ETag: {tag}\r\n\r\n",
        file.len() - from,
        file.len() - 1,
        file.len()
    );
    let _ = stream.write_all(head.as_bytes());
    let _ = stream.write_all(&file[from..][..most.min(file.len() - from)]);
}

/// Debian's nginx, with a folder's files, on a free port.
pub(crate) struct Nginx {
    child: Child,
    pub(crate) port: u16,
}

impl Nginx {
    /// `extra` goes into the server's block; `tls` are certificate and key.
    pub(crate) fn start(folder: &Path, extra: &str, tls: Option<(&Path, &Path)>) -> Self {
        // Another may take the port between its choice and its use: then the next one is tried.
        for _ in 0..20 {
            let port =
                TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
            if let Some(nginx) = Self::try_start(folder, extra, tls, port) {
                return nginx;
            }
        }
        panic!("nginx does not start; look at {}/error.log", folder.display());
    }

    fn try_start(
        folder: &Path,
        extra: &str,
        tls: Option<(&Path, &Path)>,
        port: u16,
    ) -> Option<Self> {
        let at = folder.display();
        let (ssl, files) = tls.map_or_else(Default::default, |(certificate, key)| {
            let files = format!(
                "ssl_protocols TLSv1.3; ssl_certificate {}; ssl_certificate_key {};",
                certificate.display(),
                key.display()
            );
            (" ssl", files)
        });
        let text = format!(
            "daemon off; master_process off; pid {at}/pid; error_log {at}/error.log; user root;\n\
             events {{}}\n\
             http {{ access_log off; client_body_temp_path {at}/t1; proxy_temp_path {at}/t2;\n\
             fastcgi_temp_path {at}/t3; uwsgi_temp_path {at}/t4; scgi_temp_path {at}/t5;\n\
             server {{ listen 127.0.0.1:{port}{ssl}; {files} root {at}/www; {extra} }} }}\n"
        );
        let conf: PathBuf = folder.join("nginx.conf");
        std::fs::write(&conf, text).unwrap();
        let mut command = Command::new("nginx");
        let path = format!("{}:/usr/sbin", std::env::var("PATH").unwrap_or_default());
        command.env("PATH", path).arg("-c").arg(&conf).arg("-e").arg(folder.join("error.log"));
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let mut nginx = Self { child: child.expect("install Debian's package nginx-light"), port };
        loop {
            if TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok() {
                return Some(nginx);
            }
            if nginx.child.try_wait().unwrap().is_some() {
                return None;
            }
            std::thread::yield_now();
        }
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
