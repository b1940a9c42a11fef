//! A PostgreSQL server of a test's own: in a temporary folder, on a local socket there and no port,
//! and as the user `postgres` where the test runs as root, which PostgreSQL refuses.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, User, geteuid};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection, Row as _};

use super::postgres::PgPlace;

const READY: &str = "database system is ready to accept connections";

pub(crate) struct Cluster {
    directory: tempfile::TempDir,
    server: Option<Child>,
    /// Names the local socket; a port of TCP only where there is TLS.
    port: u16,
    more: Vec<String>,
}

impl Cluster {
    pub(crate) fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let data = directory.path().join("data");
        fs::create_dir(&data).unwrap();
        if let Some(user) = postgres_user() {
            chown(&data, Some(user.uid.as_raw()), Some(user.gid.as_raw())).unwrap();
        }
        let words =
            ["-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync", "-D"];
        let made = program("initdb").args(words).arg(&data).output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let mut cluster = Self { directory, server: None, port: 5432, more: Vec::new() };
        cluster.start_again();
        cluster
    }

    /// Returns when it takes connections.
    pub(crate) fn start_again(&mut self) {
        let mut server = program("postgres")
            .arg("-D")
            .arg(self.data())
            .arg("-k")
            .arg(self.data())
            .args(["-c", "listen_addresses=", "-c", "wal_level=logical", "-c", "fsync=off"])
            .args(["-c", "shared_buffers=16MB", "-c", "wal_retrieve_retry_interval=100ms"])
            .args(&self.more)
            .stderr(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(server.stderr.take().unwrap()).lines().map_while(Result::ok);
        let log: Vec<String> = lines.by_ref().take_while(|line| !line.contains(READY)).collect();
        // It goes on writing, and must not wait for a reader.
        std::thread::spawn(move || lines.for_each(drop));
        assert!(server.try_wait().unwrap().is_none(), "{log:#?}");
        self.server = Some(server);
    }

    /// Starts anew with TLS on loopback, where the user `avr` needs its password; says on which port.
    pub(crate) fn open(&mut self, certificate: &str, key: &str) -> u16 {
        self.stop();
        let rules = "local all all trust\nhostssl all avr 127.0.0.1/32 scram-sha-256\n";
        for (name, text) in
            [("server.crt", certificate), ("server.key", key), ("pg_hba.conf", rules)]
        {
            let path = self.data().join(name);
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
            if let Some(user) = postgres_user() {
                chown(&path, Some(user.uid.as_raw()), Some(user.gid.as_raw())).unwrap();
            }
        }
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        self.port = free.local_addr().unwrap().port();
        drop(free);
        let words = ["-c", "listen_addresses=127.0.0.1", "-c", "ssl=on", "-p"];
        self.more = words.map(str::to_owned).to_vec();
        self.more.push(self.port.to_string());
        self.start_again();
        self.port
    }

    /// As if its host had lost its power.
    pub(crate) fn kill(&mut self) {
        if let Some(mut server) = self.server.take() {
            server.kill().unwrap();
            server.wait().unwrap();
        }
    }

    /// A new database, from here.
    pub(crate) async fn database(&self, name: &str) -> PgPlace {
        self.run("postgres", &format!("CREATE DATABASE {name}")).await;
        self.place(name)
    }

    pub(crate) fn place(&self, database: &str) -> PgPlace {
        PgPlace::parse(&self.url(database), None).unwrap()
    }

    pub(crate) fn url(&self, database: &str) -> String {
        let (host, port) = (self.data(), self.port);
        format!("postgresql:///{database}?user=postgres&port={port}&host={}", host.display())
    }

    /// For `CREATE SUBSCRIPTION`.
    pub(crate) fn conninfo(&self, database: &str) -> String {
        let (host, port) = (self.data(), self.port);
        format!("host={} port={port} user=postgres dbname={database}", host.display())
    }

    pub(crate) async fn run(&self, database: &str, statements: &str) {
        let mut connection = PgConnection::connect(&self.url(database)).await.unwrap();
        let statements = AssertSqlSafe(statements.to_owned());
        sqlx::raw_sql(statements).execute(&mut connection).await.unwrap();
    }

    /// The one number that a statement gives.
    pub(crate) async fn number(&self, database: &str, statement: &'static str) -> i64 {
        let mut connection = PgConnection::connect(&self.url(database)).await.unwrap();
        let row = sqlx::query(statement).fetch_one(&mut connection).await.unwrap();
        row.try_get(0).unwrap()
    }

    fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    /// "Immediate shutdown": its processes end with it.
    fn stop(&mut self) {
        if let Some(mut server) = self.server.take() {
            let pid = Pid::from_raw(i32::try_from(server.id()).unwrap());
            let _ = kill(pid, Signal::SIGQUIT);
            let _ = server.wait();
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.stop();
    }
}

fn postgres_user() -> Option<User> {
    let is_root = geteuid().is_root();
    is_root.then(|| {
        let user = User::from_name("postgres").unwrap();
        user.expect("no user `postgres`; scripts/install-packages installs PostgreSQL")
    })
}

/// One of Debian's programs, of the newest version installed.
fn program(name: &str) -> Command {
    let versions = fs::read_dir("/usr/lib/postgresql")
        .expect("no PostgreSQL; scripts/install-packages installs it")
        .map(|entry| entry.unwrap().path().join("bin").join(name));
    let newest = versions.filter(|path| Path::exists(path)).max().expect("no PostgreSQL server");
    let mut command = Command::new(newest);
    command.current_dir("/").stdin(Stdio::null()).env("LC_ALL", "C");
    if let Some(user) = postgres_user() {
        command.uid(user.uid.as_raw()).gid(user.gid.as_raw());
    }
    command
}
