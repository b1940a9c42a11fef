//! What fails while mail flows: nothing lost, nothing doubled, nothing altered, nobody cut for
//! nothing. How long clients waited is for `cargo run -p e2e --bin outages`, on a quiet machine.
#![allow(clippy::tests_outside_test_module, reason = "an integration test is all tests")]

use e2e::{in_large_product_lab, outages};

#[test]
fn servers_of_a_site_fail_one_at_a_time() {
    in_large_product_lab(|lab| outages::run_all(lab, outages::SERVERS, |_| ()).map(drop));
}

#[test]
fn sites_fail_and_come_and_go_in_dns() {
    in_large_product_lab(|lab| outages::run_all(lab, outages::SITES, |_| ()).map(drop));
}

#[test]
fn scanners_disks_clocks_and_the_box_fail() {
    in_large_product_lab(|lab| outages::run_all(lab, outages::SURROUNDINGS, |_| ()).map(drop));
}
