//! The box without any site: nothing listens where DNS points to.
#![allow(clippy::tests_outside_test_module, reason = "an integration test is all tests")]

use anyhow::{Result, ensure};
use e2e::{Lab, Options, evidence::Way, in_lab, scenarios};

#[test]
fn clean_mail_goes_direct_both_ways_as_it_is() {
    in_lab(|lab| {
        start_box_alone(lab)?;
        for step in [scenarios::clean_out, scenarios::clean_in, scenarios::clean_out_ipv6] {
            let done = step(lab)?;
            ensure!(done.way == Way::Direct, "the way was {}", done.way);
        }
        Ok(())
    });
}

#[test]
fn the_box_finds_eicar_by_itself() {
    in_lab(|lab| {
        start_box_alone(lab)?;
        scenarios::eicar_out(lab)?;
        scenarios::eicar_in(lab).map(drop)
    });
}

fn start_box_alone(lab: &mut Lab) -> Result<()> {
    lab.make_fleet()?;
    lab.start_box(Options::default())
}
