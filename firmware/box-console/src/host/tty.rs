//! The terminal's line, opened by name: raw, 8 bits, no parity, no flow control, whatever it was before.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use nix::fcntl::OFlag;
use nix::sys::termios::{
    BaudRate, ControlFlags, InputFlags, SetArg, SpecialCharacterIndices, cfmakeraw, tcgetattr,
    tcsetattr,
};

/// Read at once, in bytes.
const READ_BYTES: usize = 1024;

pub(crate) struct Tty {
    file: File,
}

impl Tty {
    pub(crate) fn open(path: &Path, baud: u32) -> io::Result<Self> {
        // Without O_NONBLOCK, opening waits for a carrier that a three-wire cable does not have.
        let flags = OFlag::O_NOCTTY | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        let file =
            OpenOptions::new().read(true).write(true).custom_flags(flags.bits()).open(path)?;
        let tty = Self { file };
        tty.set_up(baud)?;
        Ok(tty)
    }

    fn set_up(&self, baud: u32) -> io::Result<()> {
        let mut termios = tcgetattr(&self.file)?;
        cfmakeraw(&mut termios);
        termios.control_flags.remove(
            ControlFlags::CSIZE
                | ControlFlags::PARENB
                | ControlFlags::CSTOPB
                | ControlFlags::CRTSCTS
                | ControlFlags::HUPCL,
        );
        termios.control_flags |= ControlFlags::CS8 | ControlFlags::CREAD | ControlFlags::CLOCAL;
        // A break and bytes that came broken are nothing, and not NUL or a signal.
        termios
            .input_flags
            .remove(InputFlags::IXON | InputFlags::IXOFF | InputFlags::BRKINT | InputFlags::PARMRK);
        termios.input_flags |= InputFlags::IGNBRK | InputFlags::IGNPAR;
        for (index, value) in
            [(SpecialCharacterIndices::VMIN, 1), (SpecialCharacterIndices::VTIME, 0)]
        {
            if let Some(place) = termios.control_chars.get_mut(index as usize) {
                *place = value;
            }
        }
        // As bits, because cfsetspeed is asked for by a version of its name that a static glibc lacks.
        termios.control_flags.remove(ControlFlags::CBAUD);
        termios.control_flags |= ControlFlags::from_bits_retain(rate(baud)? as u32);
        Ok(tcsetattr(&self.file, SetArg::TCSANOW, &termios)?)
    }

    /// What has come.
    pub(crate) fn read(&mut self) -> io::Result<Vec<u8>> {
        let mut buffer = vec![0; READ_BYTES];
        match self.file.read(&mut buffer) {
            Ok(0) => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the other end is gone")),
            Ok(bytes) => {
                buffer.truncate(bytes);
                Ok(buffer)
            }
            Err(error) if passes(&error) => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    /// Writes as much as there is room for, and takes it away from what waits.
    pub(crate) fn write(&mut self, pending: &mut Vec<u8>) -> io::Result<()> {
        while !pending.is_empty() {
            match self.file.write(pending) {
                Ok(bytes) => drop(pending.drain(..bytes)),
                Err(error) if passes(&error) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

impl AsFd for Tty {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

fn passes(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

fn rate(baud: u32) -> io::Result<BaudRate> {
    Ok(match baud {
        9600 => BaudRate::B9600,
        19_200 => BaudRate::B19200,
        38_400 => BaudRate::B38400,
        57_600 => BaudRate::B57600,
        115_200 => BaudRate::B115200,
        230_400 => BaudRate::B230400,
        460_800 => BaudRate::B460800,
        921_600 => BaudRate::B921600,
        1_500_000 => BaudRate::B1500000,
        _ => {
            let problem =
                format!("no line has {baud} baud: write 115200, or what the board's file says");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, problem));
        }
    })
}

#[cfg(test)]
mod tests {
    use nix::pty::{grantpt, posix_openpt, ptsname_r, unlockpt};
    use nix::sys::termios::{LocalFlags, OutputFlags, cfgetospeed};

    use super::*;

    #[test]
    fn the_line_is_set_up_whatever_it_was_before() {
        let master = posix_openpt(OFlag::O_RDWR | OFlag::O_NOCTTY).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let name = ptsname_r(&master).unwrap();
        for (baud, rate) in [(9600, BaudRate::B9600), (115_200, BaudRate::B115200)] {
            let tty = Tty::open(Path::new(&name), baud).unwrap();
            let termios = tcgetattr(&tty.file).unwrap();
            assert_eq!(cfgetospeed(&termios), rate);
            assert!(
                !termios
                    .local_flags
                    .intersects(LocalFlags::ECHO | LocalFlags::ICANON | LocalFlags::ISIG)
            );
            assert!(!termios.input_flags.intersects(InputFlags::IXON | InputFlags::ICRNL));
            assert!(termios.input_flags.contains(InputFlags::IGNBRK));
            assert!(!termios.output_flags.contains(OutputFlags::OPOST));
            // Somebody else's settings, before it is opened again.
            let mut other = termios;
            other.local_flags |= LocalFlags::ECHO | LocalFlags::ICANON;
            other.input_flags |= InputFlags::IXON;
            tcsetattr(&tty.file, SetArg::TCSANOW, &other).unwrap();
        }
        let error = Tty::open(Path::new(&name), 12_345).map(|_| ()).unwrap_err();
        assert!(error.to_string().contains("no line has 12345 baud"), "{error}");
    }
}
