//! What is answered over the control socket.

use std::time::Duration;

use super::{Init, state};
use crate::control::{LOG_LINES_MAX, NetworkRequest, Reply, Request, Slots};
use crate::health::judge;
use crate::host::power::End;
use crate::services::GATEWAY;

impl Init {
    pub(super) fn answer(&mut self, request: Request, now: Duration) -> Reply {
        match request {
            Request::Status => Reply::Status(Box::new(self.status(now))),
            Request::Services => {
                Reply::Services { services: self.supervisor.report(now).collect() }
            }
            Request::Logs { service, lines } => self.lines_of(&service, lines),
            Request::Restart { service } => self.restart(&service, now),
            Request::Bypass { on } => {
                self.bypass = on;
                self.want_services(now);
                done(if on {
                    "mail crosses the bridge, unscanned, until this is turned off or the box starts anew"
                } else {
                    "the gateway starts"
                })
            }
            Request::Network(request) => self.network_request(request, now),
            Request::SelfTest => Reply::SelfTest { checks: judge(&self.probes(now)) },
            Request::Reboot => {
                self.end(End::Reboot, false);
                done("the box starts anew")
            }
            Request::Poweroff => {
                self.end(End::Poweroff, false);
                done("the box turns off")
            }
            Request::FactoryReset { serial } if serial == self.serial() => {
                self.end(End::Reboot, true);
                done("the box forgets everything and starts anew")
            }
            Request::FactoryReset { .. } => {
                failed("this is not the serial number of this box: nothing is forgotten")
            }
            Request::Slots => self.slots(),
        }
    }

    fn slots(&self) -> Reply {
        let Some(found) = &self.storage else {
            return failed("the box is still starting: ask again in a moment");
        };
        let Some(device) = &found.slots else {
            return failed(
                "the box has not found its disk, or no partition with slots on it: look at its status",
            );
        };
        Reply::Slots(Box::new(Slots {
            device: device.display().to_string(),
            entry: self.loader.running().map(str::to_owned),
            release: self.release.clone(),
        }))
    }

    fn lines_of(&self, service: &str, lines: u32) -> Reply {
        let lines = usize::try_from(lines.min(LOG_LINES_MAX)).unwrap_or(0);
        match self.logs.last(service, lines) {
            Some(lines) => Reply::Logs { lines },
            // One that has said nothing yet.
            None if self.supervisor.find(service).is_some() => Reply::Logs { lines: Vec::new() },
            None => failed(&format!("there is no service {service}: ask for `services`")),
        }
    }

    fn restart(&mut self, service: &str, now: Duration) -> Reply {
        let Some(index) = self.supervisor.find(service) else {
            return failed(&format!("there is no service {service}: ask for `services`"));
        };
        if self.supervisor.restart(index, now) {
            return done("it starts anew");
        }
        failed(if service == GATEWAY && self.bypass {
            "the gateway is bypassed: turn the bypass off"
        } else {
            "it is not to run in this mode or with these settings"
        })
    }

    fn network_request(&mut self, request: NetworkRequest, now: Duration) -> Reply {
        let result = match request {
            NetworkRequest::Show => Ok(()),
            NetworkRequest::Set { settings } => match settings.check() {
                Ok(()) if self.storage.is_none() => {
                    Err("the box is still starting: ask again in a moment".to_owned())
                }
                Ok(()) => {
                    self.addresses.set(settings, now);
                    self.use_addresses();
                    Ok(())
                }
                Err((key, problem)) => Err(format!("{key}: {problem}")),
            },
            NetworkRequest::Confirm => self
                .addresses
                .confirm()
                .map_err(|error| error.to_string())
                .and_then(state::save_network),
            NetworkRequest::Revert => {
                let reverted = self.addresses.revert().map_err(|error| error.to_string());
                self.use_addresses();
                reverted
            }
        };
        match result {
            Ok(()) => Reply::Network(self.network(now)),
            Err(problem) => Reply::Failed { problem },
        }
    }
}

fn done(note: &str) -> Reply {
    Reply::Done { note: note.to_owned() }
}

fn failed(problem: &str) -> Reply {
    Reply::Failed { problem: problem.to_owned() }
}
