//! `box-init`: PID 1, and the few other things that this one program is.
#![forbid(unsafe_code)]
#![allow(clippy::print_stderr, clippy::print_stdout, reason = "a command line program")]

use std::process::ExitCode;

use box_init::{Role, ask, become_service, modprobe, tell_dhcp};

const USAGE: &str = "box-init is PID 1 of the box; by hand: box-init ask '{\"verb\":\"status\"}'";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    let done = match Role::of(std::process::id(), &arguments) {
        Role::Init => return box_init::run(),
        Role::Service(spec) => become_service(&spec).map(|_| ()),
        Role::DhcpScript(argument) => tell_dhcp(&argument),
        Role::Modprobe(module) => modprobe(&module),
        Role::Ask(request) => ask(&request).map(|reply| println!("{reply}")),
        Role::Unknown => Err(USAGE.into()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("box-init: {error}");
            ExitCode::FAILURE
        }
    }
}
