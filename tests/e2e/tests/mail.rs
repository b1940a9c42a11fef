//! Mail through the whole chain, all well.
#![allow(clippy::tests_outside_test_module, reason = "an integration test is all tests")]

use anyhow::{Context, Result, ensure};
use e2e::{
    Lab, in_product_lab, records,
    scenarios::{self, Done},
};

#[test]
fn a_clean_mail_out_arrives_byte_for_byte() {
    in_product_lab(|lab| relayed(&scenarios::clean_out(lab)?));
}

#[test]
fn a_clean_mail_out_by_ipv6_arrives_byte_for_byte() {
    in_product_lab(|lab| relayed(&scenarios::clean_out_ipv6(lab)?));
}

#[test]
fn a_clean_mail_in_arrives_byte_for_byte() {
    in_product_lab(|lab| relayed(&scenarios::clean_in(lab)?));
}

#[test]
fn eicar_out_is_refused_by_name_and_not_delivered() {
    in_product_lab(|lab| relayed(&scenarios::eicar_out(lab)?));
}

#[test]
fn eicar_in_is_replaced_by_a_notice_and_stays_on_the_server() {
    in_product_lab(|lab| relayed(&scenarios::eicar_in(lab)?));
}

#[test]
fn a_virus_that_only_the_sites_scanner_knows_is_refused() {
    in_product_lab(|lab| relayed(&scenarios::marked_out(lab)?));
}

#[test]
fn what_only_a_site_finds_is_kept_there_and_found_by_its_session_everywhere() {
    in_product_lab(|lab| {
        let done = scenarios::marked_out(lab)?;
        relayed(&done)?;
        records::kept_at_the_site(lab, done.way)
    });
}

#[test]
fn sessions_that_switch_to_tls_pass_and_are_counted_as_unread() {
    in_product_lab(|lab| {
        let unread = |lab: &Lab| -> Result<u64> {
            lab.status()?["counters"]["sessions_tls"].as_u64().context("no such counter")
        };
        let before = unread(lab)?;
        relayed(&scenarios::starttls_out(lab)?)?;
        relayed(&scenarios::stls_in(lab)?)?;
        let after = unread(lab)?;
        ensure!(after == before + 2, "{before} sessions before, {after} after");
        Ok(())
    });
}

#[test]
fn web_traffic_stays_on_the_bridge() {
    in_product_lab(|lab| {
        let before = lab.status()?["flows"]["taken"].clone();
        scenarios::download(lab)?;
        let after = lab.status()?["flows"]["taken"].clone();
        ensure!(before == after, "flows taken before {before}, after {after}");
        Ok(())
    });
}

fn relayed(done: &Done) -> Result<()> {
    ensure!(done.way.site().is_some(), "the way was {}", done.way);
    Ok(())
}
