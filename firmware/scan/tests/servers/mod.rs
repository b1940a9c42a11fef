//! `clamd` and c-icap as they are installed, each in a folder of its own and ended with the test.
#![allow(dead_code, reason = "not every test needs all of it")]

use std::path::{Path, PathBuf};
use std::process::Stdio;

use bytes::Bytes;
use scan::{Engine, EngineOutcome, Object};
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::process::{Child, Command};

const CLAMD: &str = "/usr/sbin/clamd";
const C_ICAP: &str = "/usr/bin/c-icap";

/// Larger than [`FILE_BYTES_MAX`] and within the stream's limit.
pub(crate) const LARGE_BYTES: usize = 3 * 1024 * 1024;
/// `MaxFileSize`, bytes.
pub(crate) const FILE_BYTES_MAX: usize = 2 * 1024 * 1024;
/// `StreamMaxLength`, bytes.
pub(crate) const STREAM_BYTES_MAX: usize = 4 * 1024 * 1024;

/// The anti-virus test file, put together here so that no scanner takes this source away.
pub(crate) fn eicar() -> Vec<u8> {
    let halves = [r"X5O!P%@AP[4\PZX54(P^)7CC)7}$EICAR-STANDARD-", "ANTIVIRUS-TEST-FILE!$H+H*"];
    halves.concat().into_bytes()
}

/// A `clamd` that knows the test file alone.
pub(crate) struct Clamd {
    folder: TempDir,
    process: Option<Child>,
}

impl Clamd {
    /// `None`, with a word about it, where it is not installed.
    pub(crate) async fn start() -> Option<Self> {
        if !Path::new(CLAMD).exists() {
            println!("SKIPPED: {CLAMD} is not installed");
            return None;
        }
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("db")).unwrap();
        let signature: String = eicar().iter().map(|byte| format!("{byte:02x}")).collect();
        let signature = format!("Eicar-Test-Signature:0:*:{signature}\n");
        std::fs::write(folder.path().join("db/test.ndb"), signature).unwrap();
        let mut clamd = Self { folder, process: None };
        let settings = format!(
            "LocalSocket {socket}\nDatabaseDirectory {folder}/db\nTemporaryDirectory {folder}\n\
             Foreground yes\nFixStaleSocket yes\nMaxThreads 10\nStreamMaxLength {STREAM_BYTES_MAX}\n\
             MaxFileSize {FILE_BYTES_MAX}\nAlertExceedsMax yes\nAlertEncrypted yes\nUser root\n",
            socket = clamd.socket().display(),
            folder = clamd.folder.path().display(),
        );
        std::fs::write(clamd.folder.path().join("clamd.conf"), settings).unwrap();
        clamd.restart().await;
        Some(clamd)
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.path().join("socket")
    }

    /// As in settings.
    pub(crate) fn address(&self) -> String {
        format!("unix:{}", self.socket().display())
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Starts it, where it was killed.
    pub(crate) async fn restart(&mut self) {
        let mut process = Command::new(CLAMD)
            .arg("--config-file")
            .arg(self.folder.path().join("clamd.conf"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        while UnixStream::connect(self.socket()).await.is_err() {
            assert!(process.try_wait().unwrap().is_none(), "clamd does not start");
            tokio::task::yield_now().await;
        }
        self.process = Some(process);
    }

    /// As a crash would.
    pub(crate) async fn kill(&mut self) {
        self.process.take().unwrap().kill().await.unwrap();
    }
}

/// c-icap with its virus_scan module, which asks a [`Clamd`].
pub(crate) struct CIcap {
    folder: TempDir,
    port: u16,
    process: Option<Child>,
}

/// `virus_scan.MaxObjectSize`, bytes.
pub(crate) const OBJECT_BYTES_MAX: usize = 1024 * 1024;

impl CIcap {
    /// `None`, with a word about it, where it is not installed.
    pub(crate) async fn start(clamd: &Clamd) -> Option<Self> {
        let modules = std::fs::read_dir("/usr/lib").ok().into_iter().flatten().flatten();
        let modules = modules.map(|entry| entry.path().join("c_icap"));
        let modules = modules.into_iter().find(|path| path.join("virus_scan.so").exists());
        let (true, Some(modules)) = (Path::new(C_ICAP).exists(), modules) else {
            println!("SKIPPED: {C_ICAP} with its module virus_scan is not installed");
            return None;
        };
        let folder = tempfile::tempdir().unwrap();
        // The port is free now; should somebody take it meanwhile, c-icap ends and the test says so.
        let port = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
        let settings = format!(
            "PidFile {folder}/pid\nCommandsSocket {folder}/ctl\nServerLog {folder}/server.log\n\
             AccessLog {folder}/access.log\nTmpDir {folder}\nPort 127.0.0.1:{port}\n\
             StartServers 1\nMaxServers 1\nMinSpareThreads 1\nMaxSpareThreads 10\nThreadsPerChild 10\n\
             ModulesDir {modules}\nServicesDir {modules}\nTemplateDir /usr/share/c_icap/templates/\n\
             LoadMagicFile /etc/c-icap/c-icap.magic\n\
             Service antivirus_module virus_scan.so\n\
             ServiceAlias avscan virus_scan?allow204=on&sizelimit=off&mode=simple\n\
             virus_scan.ScanFileTypes TEXT DATA EXECUTABLE ARCHIVE GRAPHICS STREAM DOCUMENT\n\
             virus_scan.MaxObjectSize {OBJECT_BYTES_MAX}\nvirus_scan.PassOnError off\n\
             Module common clamd_mod.so\nclamd_mod.ClamdSocket {socket}\n",
            folder = folder.path().display(),
            modules = modules.display(),
            socket = clamd.socket().display(),
        );
        std::fs::write(folder.path().join("c-icap.conf"), settings).unwrap();
        let mut server = Self { folder, port, process: None };
        server.restart().await;
        Some(server)
    }

    /// As in settings.
    pub(crate) fn address(&self, service: &str) -> String {
        format!("icap://127.0.0.1:{}/{service}", self.port)
    }

    /// Starts it, where it was ended.
    pub(crate) async fn restart(&mut self) {
        let mut process = Command::new(C_ICAP)
            .args(["-N", "-f"])
            .arg(self.folder.path().join("c-icap.conf"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        while TcpStream::connect(("127.0.0.1", self.port)).await.is_err() {
            assert!(process.try_wait().unwrap().is_none(), "c-icap does not start");
            tokio::task::yield_now().await;
        }
        self.process = Some(process);
    }

    /// Ends it with its children, which a kill would leave behind.
    pub(crate) async fn stop(&mut self) {
        let mut process = self.process.take().unwrap();
        terminate(&process);
        process.wait().await.unwrap();
    }
}

impl Drop for CIcap {
    fn drop(&mut self) {
        if let Some(process) = &self.process {
            terminate(process);
        }
    }
}

fn terminate(process: &Child) {
    if let Some(id) = process.id() {
        let id = id.to_string();
        std::process::Command::new("kill").args(["-TERM", &id]).status().unwrap();
    }
}

pub(crate) async fn scan(engine: &dyn Engine, bytes: &[u8]) -> EngineOutcome {
    let content = Bytes::copy_from_slice(bytes).into();
    engine.scan(Object { part: 1, content, file_name: Some("a.bin".to_owned()) }).await
}

/// A zip of one stored member; encrypted, if it says so (APPNOTE.TXT section 4.4.4, bit 0).
pub(crate) fn zip(is_encrypted: bool, content: &[u8]) -> Vec<u8> {
    const NAME: &[u8] = b"a.txt";
    let length = u32::try_from(content.len()).unwrap().to_le_bytes();
    // Version, flags, method, time, date, checksum (nobody can check it), sizes, length of the name, extra.
    let mut about = vec![20, 0, u8::from(is_encrypted), 0, 0, 0, 0, 0, 0x21, 0x58, 1, 2, 3, 4];
    about.extend([length, length].concat());
    about.extend([5, 0, 0, 0]);
    let local = [b"PK\x03\x04", about.as_slice(), NAME, content].concat();
    let central = [b"PK\x01\x02\x14\0", about.as_slice(), &[0; 14], NAME].concat();
    let size = u32::try_from(central.len()).unwrap().to_le_bytes();
    let at = u32::try_from(local.len()).unwrap().to_le_bytes();
    let end = [b"PK\x05\x06\0\0\0\0\x01\0\x01\0", size.as_slice(), &at, &[0, 0]].concat();
    [local, central, end].concat()
}
