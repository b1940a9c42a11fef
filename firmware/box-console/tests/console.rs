//! The real program on a pseudo terminal, with everything round it made for the test: PID 1, the gateway,
//! a DNS server, a mail server. Capture and ping take root, as all of the box's tests do.

#[cfg(test)]
#[path = "console/bench.rs"]
mod bench;

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::net::{Ipv4Addr, UdpSocket};
    use std::time::Duration;

    use base64::Engine as _;
    use flate2::read::GzDecoder;
    use serde_json::json;

    use super::bench::{Bench, clock};

    /// Takes 1 MiB, and so a moment only: `hunter42`.
    const HASH: &str = "$argon2id$v=19$m=1024,t=1,p=1$YXZyLXRlc3Qtc2FsdA$";

    #[test]
    fn the_banner_comes_within_a_second_also_from_a_box_that_is_silent() {
        let bench = Bench::new();
        bench.init.hang();
        bench.gateway.hang();
        let mut terminal = bench.terminal();
        terminal.expect("Press Enter");
        let began = clock();
        terminal.send("\r");
        let seen = terminal.expect("avr> ").replace("\r\n    ", " ");
        let took = clock() - began;
        assert!(took < Duration::from_secs(1), "{took:?}");
        assert!(seen.contains("PID 1 does not answer within 0.4 s"), "{seen}");
        assert!(seen.contains("the gateway does not answer within 0.4 s"), "{seen}");
        assert!(seen.contains("only looking and repairing is open"), "{seen}");
    }

    #[test]
    fn every_item_of_the_menu_does_what_it_says() {
        let bench = Bench::new();
        let mut terminal = bench.terminal();
        let seen = terminal.enter();
        for says in ["build 12, qemu-x86_64", "key         ab12", "NO SECRET IS SET", "26 exit"] {
            assert!(seen.contains(says), "{says} is not in\n{seen}");
        }
        let answered = |line: &str, says: &str| -> String {
            let seen = bench.answer(line);
            assert!(seen.contains(says), "{line}: {says} is not in\n{seen}");
            seen
        };
        drop(terminal);
        answered("1", "/dev/vda3, 57 MiB of 64 MiB free");
        answered("4\r127.0.0.1", "bytes from 127.0.0.1");
        answered("5\r127.0.0.1", "traceroute to 127.0.0.1");
        answered("6\rmail.example.net", "192.0.2.25, 2001:db8::25");
        answered("6\rgone.example.net", "there is no such name");
        answered(&format!("7\r127.0.0.1\r{}", bench.smtp_port), "PASS 127.0.0.1");
        let seen = answered(&format!("8\r127.0.0.1\r{}", bench.smtp_port), "speaks SMTP");
        assert!(seen.contains(r"< 220 mx\u{1b}[2J ready"), "{seen}");
        answered("port 127.0.0.1 1", "FAIL 127.0.0.1:1: Connection refused");
        answered("10\rgateway\r7", r"name\u{1b}]0;x\u{7}");
        answered("11", "DIED, again in 8 s");
        answered("12\rgateway", "OK done");
        answered("13\rshow", "192.0.2.7/24");
        answered("14\ron\ryes", "OK done");
        answered("14\roff", "OK done");
        answered("15\r30m", "unscanned, for 1800 s");
        answered("16", "are scanned");
        answered("17\r4f2a91", "avr says: trace --config");
        answered("18\r/x.bundle\ryes", "avr says: update -- /x.bundle");
        answered("update http://192.0.2.1/x.update.tar\ryes", " http://192.0.2.1/x.update.tar");
        answered("update usb", "no USB stick is plugged in");
        answered("18\rusb:x.bundle\ryes", "FAIL no USB stick is plugged in");
        answered("19\r", "avr slots is not in this version");
        answered("20\rusb", "FAIL no USB stick is plugged in");
        answered("22\r02005e100003", "OK done");
        answered("22\r", "Nothing is done");
        answered("23\ryes", "OK done");
        answered("24\ryes", "OK done");
        answered("24\rno", "Nothing is done");
        assert!(bench.answer("25").contains("-- space: more"));
        answered("26", "Press Enter");
        let asked = bench.init.asked();
        for request in [
            json!({ "verb": "logs", "service": "gateway", "lines": 7 }),
            json!({ "verb": "restart", "service": "gateway" }),
            json!({ "verb": "bypass", "on": true }),
            json!({ "verb": "bypass", "on": false }),
            json!({ "verb": "factory-reset", "serial": "02005e100003" }),
            json!({ "verb": "reboot" }),
            json!({ "verb": "poweroff" }),
        ] {
            let times = asked.iter().filter(|one| **one == request).count();
            assert_eq!(times, 1, "{request}");
        }
        let snoozes = bench.gateway.asked();
        assert!(snoozes.contains(&json!({ "verb": "snooze", "seconds": 1800 })));
        assert!(snoozes.contains(&json!({ "verb": "resume" })));
    }

    #[test]
    fn live_shows_anew_each_second_until_q() {
        let bench = Bench::new();
        let mut terminal = bench.terminal();
        terminal.enter();
        terminal.send("2\r");
        terminal.expect("mails     -/s");
        // The fake gateway judges ten mails between two questions.
        let seen = terminal.expect("/s, 2");
        assert!(seen.contains("\u{1b}[H"), "{seen}");
        terminal.send("q");
        terminal.expect("avr> ");
    }

    #[test]
    fn the_self_test_is_a_tree() {
        let bench = Bench::new();
        let seen = bench.answer(&format!("self-test 127.0.0.1:{}", bench.smtp_port));
        for line in [
            "PASS lan: link up\r\n",
            "FAIL data: no partition DATA\r\n",
            "PASS router: 127.0.0.1 answers\r\n",
            "PASS managers: 1 of 2 answer\r\n",
            "PASS proxy: a link to 198.51.100.1:4652 is ready\r\n",
            "SKIP disk: not tried: data failed\r\n",
            "SELF-TEST FAIL 12 passed, 1 failed, 1 not tried\r\n",
        ] {
            assert!(seen.contains(line), "{line} is not in\n{seen}");
        }
        assert!(seen.contains("PASS mail-server: 127.0.0.1:"), "{seen}");
    }

    #[test]
    fn addresses_wait_for_their_confirmation() {
        let bench = Bench::new();
        let mut terminal = bench.terminal();
        terminal.enter();
        terminal.send("addresses static 192.0.2.8/24 192.0.2.1\ryes\r");
        terminal.expect("IPv4        192.0.2.8/24, router 192.0.2.1");
        let seen = terminal.expect(" s)> ");
        assert!(seen.contains("avr (addresses: confirm within 180 s)> "), "{seen}");
        // Seen by whoever comes after a hang-up too.
        terminal.hang_up();
        terminal.expect("Press Enter");
        terminal.send("\r");
        let seen = terminal.expect(" s)> ").replace("\r\n    ", " ");
        assert!(seen.contains("NOT CONFIRMED: back in 180 s"), "{seen}");
        terminal.send("addresses confirm\r");
        terminal.expect("avr> ");
        let asked = bench.init.asked();
        let set = asked.iter().find(|one| one["action"] == "set").unwrap();
        assert_eq!(set["settings"]["hostname"], "front-desk", "the rest is kept");
        assert_eq!(asked.last().unwrap()["action"], "confirm");
    }

    #[test]
    fn a_capture_has_the_frames_that_were_asked_for() {
        let bench = Bench::new();
        let mut terminal = bench.terminal();
        terminal.enter();
        let receiver = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let to = receiver.local_addr().unwrap();
        terminal.send(&format!("capture lo udp port {} host 127.0.0.1 60s\r", to.port()));
        terminal.expect("q ends it");
        let sender = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let others = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        others.send_to(b"another", others.local_addr().unwrap()).unwrap();
        sender.send_to(b"wanted-bytes", to).unwrap();
        // On the loopback each frame is seen as it goes and as it comes.
        terminal.expect("2 frames, ");
        terminal.send("q");
        let seen = terminal.expect("avr> ");
        assert!(seen.contains("ended: 2 frames, "), "{seen}");
        let file = bench.only_file("captures");
        assert_eq!(file[..4], 0xa1b2_c3d4_u32.to_le_bytes());
        assert!(file.windows(12).any(|part| part == b"wanted-bytes"));
        assert!(!file.windows(7).any(|part| part == b"another"));
        assert_eq!(file[40..][12..14], [0x08, 0x00]);
    }

    #[test]
    fn a_support_bundle_comes_over_the_line_without_secrets() {
        let bench = Bench::new();
        std::fs::write(
            bench.state().join("config/box.toml"),
            "[ports]\nlan = \"lan0\"\n[x]\nadmin_secret = \"hunter42\"\n",
        )
        .unwrap();
        let seen = bench.answer_at("support serial", "-----END AVR SUPPORT-----");
        let (_, text) = seen.split_once(" bytes-----\r\n").unwrap();
        let (text, _) = text.split_once("-----END").unwrap();
        let packed =
            base64::engine::general_purpose::STANDARD.decode(text.replace("\r\n", "")).unwrap();
        let mut archive = tar::Archive::new(GzDecoder::new(&packed[..]));
        let mut all = String::new();
        let mut names = Vec::new();
        for entry in archive.entries().unwrap() {
            let mut entry = entry.unwrap();
            names.push(entry.path().unwrap().to_string_lossy().into_owned());
            entry.read_to_string(&mut all).unwrap();
        }
        for name in [
            "init.json",
            "gateway.json",
            "logs/kernel.txt",
            "logs/b.txt",
            "self-test.txt",
            "state/config/box.toml",
        ] {
            assert!(names.contains(&format!("avr-support/{name}")), "{name} is not in {names:?}");
        }
        assert!(all.contains("lan = \"lan0\"") && all.contains("SELF-TEST"));
        assert!(!all.contains("hunter42") && !all.contains("taro@example.co.jp"));
    }

    #[test]
    fn the_secret_is_asked_for_and_wrong_ones_wait() {
        let bench = Bench::new();
        let mut terminal = bench.terminal();
        terminal.enter();
        terminal.send("secret\rhunter42!\rhunter42!\r");
        terminal.expect("The secret is set");
        terminal.expect("avr> ");
        let hash = std::fs::read_to_string(bench.state().join("config/secret")).unwrap();
        assert!(hash.starts_with(HASH.get(..9).unwrap()), "{hash}");
        terminal.send("exit\r");
        terminal.expect("Press Enter");
        terminal.send("\r");
        terminal.expect("Secret: ");
        terminal.send("reboot\r");
        terminal.expect("Wrong. The next one is taken in 1 s.");
        // Hanging up is no way round.
        terminal.hang_up();
        terminal.expect("Press Enter");
        terminal.send("\r");
        terminal.expect("Secret: ");
        terminal.send("hunter42!\r");
        terminal.expect("avr> ");
        assert!(bench.init.asked().iter().all(|one| one["verb"] == "status"));
    }

    /// On a machine that has run for a minute; before, nobody would be let in.
    #[test]
    fn a_secret_that_is_found_late_is_asked_for_before_anything_is_done() {
        let bench = Bench::new();
        bench.init.hang();
        let mut terminal = bench.terminal();
        assert!(terminal.enter().contains("cannot be checked"));
        let secret = bench.state().join("config/secret");
        std::fs::write(secret, format!("{HASH}AAAAAAAAAAAAAAAAAAAAAA\n")).unwrap();
        terminal.send("reboot\ryes\r");
        terminal.expect("can be checked by now");
        terminal.expect("Secret: ");
    }

    #[test]
    fn what_is_shown_before_the_secret_can_be_less() {
        let bench = Bench::new();
        std::fs::write(
            bench.state().join("config/secret"),
            format!("{HASH}AAAAAAAAAAAAAAAAAAAAAA\n"),
        )
        .unwrap();
        let settings = bench.state().join("config/console.toml");
        for (text, shown) in [
            ("before_login = \"all\"", true),
            ("before_login = \"short\"", false),
            ("befor_login = \"all\"", false),
        ] {
            std::fs::write(&settings, text).unwrap();
            let mut terminal = bench.terminal();
            terminal.expect("Press Enter");
            terminal.send("\r");
            let seen = terminal.expect("Secret: ");
            assert!(seen.contains("02005e100003"), "{seen}");
            assert_eq!(seen.contains("ab12"), shown, "{text}: {seen}");
            assert_eq!(seen.contains("console.toml:1"), text.starts_with("befor_"), "{seen}");
        }
    }

    #[test]
    fn rubbish_and_hang_ups_leave_a_console_that_works() {
        let bench = Bench::new();
        let mut terminal = bench.terminal();
        terminal.expect("Press Enter");
        // A linear congruential generator: every run sees the same bytes.
        let mut number = 1_u32;
        let rubbish: Vec<u8> = (0..20_000)
            .map(|_| {
                number = number.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                number.to_be_bytes()[0]
            })
            // No line of rubbish is to be a command's number.
            .filter(|byte| !byte.is_ascii_digit())
            .collect();
        for part in rubbish.chunks(500) {
            terminal.send_bytes(part);
            terminal.drain();
        }
        terminal.send_bytes(&[0x1b, b'['].repeat(5000));
        terminal.send("\x03\x03\x04");
        terminal.hang_up();
        terminal.expect("Press Enter");
        let seen = terminal.enter_now();
        assert!(seen.contains("build 12"), "{seen}");
        terminal.send("stat\t\r");
        terminal.expect("watchdog    softdog");
        assert!(bench.init.asked().iter().all(|one| one["verb"] != "reboot"));
    }
}
