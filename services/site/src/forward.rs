//! The port forwarding of a site's firewall, as an nftables file.
//!
//! It is the one thing by which sites differ, apart from their records in DNS. The file replaces
//! its own tables and touches no others, so it can be loaded as often as one likes.

use std::fmt::Write as _;
use std::net::SocketAddr;

use crate::plan::{Forward, Site};

/// Where it is, below the root.
pub const FORWARD_FILE: &str = "etc/avr/forward.nft";
/// The tables it makes.
pub const TABLE: &str = "avr_site";

const HEAD: &str = "\
# Port forwarding of this AVR site, for the firewall that has the public address. Written by
# `avr-site init`; load it with `nft -f forward.nft`, also at each boot: `include
# \"/etc/avr/forward.nft\"` in /etc/nftables.conf. Packets have to be forwarded at all
# (net.ipv4.ip_forward = 1, net.ipv6.conf.all.forwarding = 1), and a chain that drops what is
# forwarded has to let these pass: `ct status dnat accept`.
";

/// The text of the file.
#[must_use]
pub fn nft_file(site: &Site) -> String {
    let mut text = HEAD.to_owned();
    for is_ipv4 in [true, false] {
        let forwards = site.forwards();
        let forwards: Vec<&Forward> =
            forwards.iter().filter(|forward| forward.public.is_ipv4() == is_ipv4).collect();
        if !forwards.is_empty() {
            text += &table(site, &forwards, is_ipv4);
        }
    }
    text
}

fn table(site: &Site, forwards: &[&Forward], is_ipv4: bool) -> String {
    let family = if is_ipv4 { "ip" } else { "ip6" };
    // Made before it is deleted, so that deleting it is no error the first time.
    let mut text = format!(
        "\ntable {family} {TABLE}\ndelete table {family} {TABLE}\ntable {family} {TABLE} {{\n    \
         chain forwards {{\n        type nat hook prerouting priority dstnat; policy accept;\n"
    );
    for forward in forwards.iter().filter(|forward| !is_direct(forward)) {
        let public = forward.public;
        let _ = writeln!(
            text,
            "        {family} daddr {} tcp dport {} {}  # {}",
            public.ip(),
            public.port(),
            target(&forward.local),
            forward.role
        );
    }
    text += "    }\n";
    let inside: Vec<String> = site
        .machines()
        .into_iter()
        .filter(|machine| machine.is_ipv4() == is_ipv4)
        .map(|machine| machine.to_string())
        .collect();
    let _ = write!(
        text,
        "\n    # The site's own machines reach the public address too: their answers have to come \
         back this way.\n    chain inside {{\n        type nat hook postrouting priority srcnat; \
         policy accept;\n        {family} saddr {{ {} }} ct status dnat masquerade\n    }}\n}}\n",
        inside.join(", ")
    );
    text
}

/// A server that has the public address itself needs no forwarding.
fn is_direct(forward: &Forward) -> bool {
    forward.local.contains(&forward.public)
}

/// `dnat to` one server, or to several in turn.
fn target(local: &[SocketAddr]) -> String {
    match local {
        [one] => format!("dnat to {one}"),
        several => {
            let port = several.first().map_or(0, SocketAddr::port);
            let places: Vec<String> = several
                .iter()
                .enumerate()
                .map(|(index, address)| format!("{index} : {}", address.ip()))
                .collect();
            let places = places.join(", ");
            format!("dnat to numgen inc mod {} map {{ {places} }} : {port}", several.len())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::tests::draft;

    #[test]
    fn each_public_port_leads_to_its_server() {
        let text = nft_file(&Site::new(draft()).unwrap());
        for line in [
            "ip daddr 203.0.113.10 tcp dport 4650 dnat to 10.0.0.20:4650  # auther",
            "ip daddr 203.0.113.10 tcp dport 4651 dnat to numgen inc mod 2 \
             map { 0 : 10.0.0.1, 1 : 10.0.0.2 } : 4651  # manager",
            "ip daddr 203.0.113.10 tcp dport 4653 dnat to 10.0.0.2:4652  # proxy",
            "ip6 daddr 2001:db8:10::1 tcp dport 4651 dnat to [2001:db8:10:1::1]:4651  # manager",
            "ip saddr { 10.0.0.1, 10.0.0.2, 10.0.0.3, 10.0.0.20 } ct status dnat masquerade",
        ] {
            assert!(text.contains(line), "{line}\n{text}");
        }
    }

    #[test]
    fn a_server_with_the_public_address_is_left_alone() {
        let mut draft = draft();
        draft.public = vec!["203.0.113.10".to_owned()];
        draft.auther = Vec::new();
        draft.manager = vec!["203.0.113.10".to_owned()];
        draft.proxy = vec!["203.0.113.10".to_owned()];
        let text = nft_file(&Site::new(draft).unwrap());
        assert!(!text.contains("dnat to"), "{text}");
    }
}
