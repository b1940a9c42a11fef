//! See the library.
#![forbid(unsafe_code)]

use clap::Parser as _;
use sim::World;
use sim::cli::Args;
use sim::report::{self, Run};

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let scenarios = args.scenarios();
    anyhow::ensure!(
        !scenarios.is_empty(),
        "no scenario's name begins so; see tests/sim/RESULTS.md"
    );
    let mut runs = Vec::new();
    for scenario in scenarios {
        let mut world = World::new(args.size(), &scenario);
        let outcome = world.run(&scenario);
        let run = Run { scenario, outcome, ttl_s_max: world.ttl_s_max() };
        report::print(&run);
        runs.push(run);
    }
    if let Some(folder) = &args.write {
        report::write(folder, args.size(), &runs)?;
    }
    Ok(())
}
