//! The lab by itself, its box a plain bridge: what the other scenarios stand on. If these fail, the
//! lab is broken and not the product.
#![allow(clippy::tests_outside_test_module, reason = "an integration test is all tests")]

use anyhow::{Result, ensure};
use e2e::{Lab, evidence::Way, figures, in_lab, message, plan, scenarios};

#[test]
fn mail_crosses_a_plain_bridge_as_it_is() {
    in_lab(|lab| {
        for step in [
            scenarios::clean_out,
            scenarios::clean_out_ipv6,
            scenarios::starttls_out,
            scenarios::clean_in,
            scenarios::stls_in,
        ] {
            let done = step(lab)?;
            ensure!(done.way == Way::Direct, "went {}", done.way);
        }
        scenarios::download(lab)?;
        Ok(())
    });
}

#[test]
fn a_plain_bridge_lets_eicar_through_and_the_steps_notice() {
    in_lab(|lab| {
        fails_with("was answered by", scenarios::eicar_out(lab))?;
        fails_with("EICAR came through", scenarios::eicar_in(lab))
    });
}

fn fails_with(words: &str, step: Result<scenarios::Done>) -> Result<()> {
    match step {
        Ok(done) => anyhow::bail!("it passed: {done:?}"),
        Err(error) => ensure!(error.to_string().contains(words), "another error: {error:?}"),
    }
    Ok(())
}

#[test]
fn a_cut_line_is_silent_and_can_be_mended() {
    in_lab(|lab: &mut Lab| {
        let site = &lab.sites()[0];
        site.cut()?;
        ensure!(!lab.reaches(&lab.sites()[0])?, "packets pass a cut line");
        lab.sites()[0].mend()?;
        ensure!(lab.reaches(&lab.sites()[0])?, "no packets pass a mended line");
        Ok(())
    });
}

#[test]
fn the_sites_scanner_knows_its_two_viruses() {
    in_lab(|lab| {
        let samples = [
            (message::EICAR_PARTS.concat(), "Eicar-Signature"),
            (message::LAB_MARKER.to_owned(), "Lab-Marker"),
            ("good morning".to_owned(), "OK"),
        ];
        for (sample, answer) in samples {
            let said = lab.site("tokyo")?.scan(sample.as_bytes())?;
            ensure!(said.contains(answer), "{said} for {answer}");
        }
        Ok(())
    });
}

#[test]
fn a_direct_session_is_one_round_trip_on_the_wire() {
    in_lab(|lab| {
        let trips = figures::trips_to(lab, &[plan::MAIL], |_| Ok(()))?;
        ensure!(trips == 1, "{trips} round trips from SYN to banner");
        Ok(())
    });
}

#[test]
fn bulk_data_gets_through_a_mail_port() {
    in_lab(|lab| {
        for download in [false, true] {
            ensure!(figures::transfer(lab, plan::MAIL, download)? > 0.0, "nothing got through");
        }
        Ok(())
    });
}
