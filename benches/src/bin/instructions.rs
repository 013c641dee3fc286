//! `instructions`: prints the names of all workloads. `instructions NAME TIMES`: does that
//! work. Run under callgrind by `cargo xtask bench instructions`.

use std::process::ExitCode;

use benches::workloads::WORKLOADS;

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let Some(name) = arguments.next() else {
        for (name, _) in WORKLOADS {
            println!("{name}");
        }
        return ExitCode::SUCCESS;
    };
    let times = arguments.next().and_then(|times| times.parse().ok());
    let workload = WORKLOADS.iter().find(|(known, _)| *known == name);
    match (workload, times) {
        (Some((_, run)), Some(times)) => {
            run(times);
            ExitCode::SUCCESS
        }
        _ => {
            eprintln!("usage: instructions [NAME TIMES]");
            ExitCode::FAILURE
        }
    }
}
