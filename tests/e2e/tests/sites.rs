//! Two sites made by their commands; traffic moves as they join and leave.
#![allow(clippy::tests_outside_test_module, reason = "an integration test is all tests")]

use e2e::{in_lab, sites};

#[test]
fn sites_made_by_their_commands_come_and_go() {
    in_lab(|lab| sites::run_all(lab, |_| ()));
}
