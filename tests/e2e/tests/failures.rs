//! What stops, and that mail goes on.
#![allow(clippy::tests_outside_test_module, reason = "an integration test is all tests")]

use anyhow::{bail, ensure};
use e2e::{Part, evidence::Way, failures, in_product_lab, plan, pop3, scenarios, smtp};

#[test]
fn the_manager_in_use_dies() {
    in_product_lab(|lab| failures::manager_killed(lab).map(drop));
}

#[test]
fn the_proxy_in_use_dies_and_then_its_twin() {
    in_product_lab(|lab| failures::proxy_killed(lab).map(drop));
}

#[test]
fn the_site_in_use_goes_silent() {
    in_product_lab(|lab| {
        failures::site_stopped(lab)?;
        scenarios::download(lab).map(drop)
    });
}

#[test]
fn every_site_goes_silent_and_comes_back() {
    in_product_lab(|lab| {
        failures::everything_stopped(lab)?;
        let refused = scenarios::eicar_out(lab)?;
        ensure!(refused.way == Way::Direct, "the way was {}", refused.way);
        scenarios::download(lab)?;
        failures::everything_back(lab).map(drop)
    });
}

#[test]
fn the_boxs_own_program_dies() {
    in_product_lab(|lab| failures::box_killed(lab).map(drop));
}

#[test]
fn a_session_whose_proxy_dies_is_reset_and_its_mail_not_delivered() {
    in_product_lab(|lab| {
        let (mut session, way) = scenarios::watch_way(lab, |lab| {
            lab.pc().within(|| smtp::Session::open(plan::smtp_server()))?
        })?;
        let Way::Relay { site, proxy } = way else { bail!("the way was {way}") };
        for (command, code) in [
            ("EHLO pc.office.test".to_owned(), 250),
            (format!("MAIL FROM:<{}>", plan::SENDER), 250),
            (format!("RCPT TO:<{}>", plan::RECIPIENT), 250),
            ("DATA".to_owned(), 354),
        ] {
            ensure!(session.command(&command)?.code == code, "{command}");
        }
        lab.site(&site)?.kill(Part::Proxy(proxy - 1))?;
        match session.command("Subject: half\r\n\r\nhalf a mail\r\n.") {
            Ok(reply) => ensure!(reply.code != 250, "a mail was acknowledged: {reply:?}"),
            Err(error) => ensure!(is_lost(&error), "another error: {error:?}"),
        }
        // The next mail is the only one that arrives.
        scenarios::short_out(lab, "after the half mail").map(drop)
    });
}

#[test]
fn a_refused_connection_looks_refused() {
    in_product_lab(|lab| {
        let nobody = (plan::MAIL, plan::BULK_PORT).into();
        let error = match lab.pc().within(|| pop3::Session::open(nobody))? {
            Ok(session) => bail!("somebody answered: {session:?}"),
            Err(error) => error,
        };
        let refused = error.chain().any(|cause| {
            cause
                .downcast_ref::<std::io::Error>()
                .is_some_and(|error| error.kind() == std::io::ErrorKind::ConnectionRefused)
        });
        ensure!(refused, "not refused but {error:?}");
        Ok(())
    });
}

fn is_lost(error: &anyhow::Error) -> bool {
    let text = format!("{error:#}");
    text.contains("was closed") || text.contains("reset") || text.contains("Broken pipe")
}
