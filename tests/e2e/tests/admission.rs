//! A box that the operator has not let in: its mail goes on, scanned by itself.
#![allow(clippy::tests_outside_test_module, reason = "an integration test is all tests")]

use anyhow::{Result, ensure};
use e2e::{Lab, Options, evidence::Way, in_lab, scenarios};

#[test]
fn mail_of_an_unknown_box_goes_direct_until_it_is_registered() {
    in_lab(|lab| kept_out(lab, "remove", "add"));
}

#[test]
fn mail_of_a_suspended_box_goes_direct_until_it_is_resumed() {
    in_lab(|lab| kept_out(lab, "suspend", "resume"));
}

fn kept_out(lab: &mut Lab, out: &str, back: &str) -> Result<()> {
    lab.make_fleet()?;
    lab.start_sites()?;
    lab.operate(out)?;
    lab.start_box(Options::default())?;
    lab.wait_status("the auther's refusal", |status| {
        status.pointer("/relay/ticket/denied").is_some()
    })?;
    for step in [scenarios::clean_out, scenarios::eicar_out] {
        let done = step(lab)?;
        ensure!(done.way == Way::Direct, "the way was {}", done.way);
    }
    lab.operate(back)?;
    // The box asks again by itself within some minutes; it asks at once when it starts.
    lab.stop_box()?;
    lab.start_box(Options::default())?;
    lab.wait_relaying()?;
    let done = scenarios::clean_out(lab)?;
    ensure!(done.way.site().is_some(), "the way was {}", done.way);
    Ok(())
}
