//! The fuzz targets under libFuzzer, which keeps what reaches new code and goes on from there:
//! one binary, built and started by `cargo xtask fuzz`, which says in `ATOLL_FUZZ_TARGET` which
//! target is meant (without it, it lists them), and in `ATOLL_FUZZ_SEEDS` where its seeds are to
//! be put.
//!
//! What a target may allocate is bounded here, by the input's length: an input that makes it
//! take more is a crash.

#![no_main]

use std::{env, fs, panic, path::Path, sync::OnceLock};

use cap::Cap;

#[global_allocator]
static ALLOCATOR: Cap<std::alloc::System> = Cap::new(std::alloc::System, usize::MAX);

/// What an element of a list may be larger in memory than on the wire: a record of a dozen
/// strings is a dozen bytes of lengths.
const BYTES_PER_BYTE: usize = 512;

struct Target {
    name: &'static str,
    run: fn(&[u8]),
    seeds: fn() -> Vec<Vec<u8>>,
    /// What it may allocate for an empty input.
    bytes_min: usize,
}

/// A target's buffers, and serde's, which takes up to 1 MiB on a length's word.
const FEW: usize = 4 << 20;

static TARGETS: [Target; 7] = [
    Target {
        name: "form",
        run: atoll_gateway::fuzz::form,
        seeds: atoll_gateway::fuzz::form_seeds,
        bytes_min: FEW,
    },
    Target { name: "formats", run: formats, seeds: formats_seeds, bytes_min: FEW },
    Target {
        name: "frame",
        run: atoll_transport::tls::fuzz::frames,
        seeds: atoll_transport::tls::fuzz::frames_seeds,
        // The bodies that one peer may begin, and the calls that are served: see its limits.
        bytes_min: 160 << 20,
    },
    Target {
        name: "log",
        run: atoll_disk::fuzz::log,
        seeds: atoll_disk::fuzz::log_seeds,
        bytes_min: 16 << 20,
    },
    Target {
        name: "manifest",
        run: atoll_objects::fuzz::manifest,
        seeds: atoll_objects::fuzz::manifest_seeds,
        bytes_min: FEW,
    },
    Target {
        name: "policy",
        run: atoll_access::fuzz::policy,
        seeds: atoll_access::fuzz::policy_seeds,
        bytes_min: FEW,
    },
    Target {
        name: "ticket",
        run: atoll_node::fuzz::ticket,
        seeds: atoll_node::fuzz::ticket_seeds,
        bytes_min: FEW,
    },
];

type Formats = (fn(&[u8]), fn() -> Vec<Vec<u8>>);

const FORMATS: [Formats; 5] = [
    (atoll_access::fuzz::formats, atoll_access::fuzz::formats_seeds),
    (atoll_membership::fuzz::formats, atoll_membership::fuzz::formats_seeds),
    (atoll_node::fuzz::formats, atoll_node::fuzz::formats_seeds),
    (atoll_objects::fuzz::formats, atoll_objects::fuzz::formats_seeds),
    (atoll_records::fuzz::formats, atoll_records::fuzz::formats_seeds),
];

/// The first byte chooses a crate, the next one of its formats. What members gossip has a target
/// beside the formats, and a place behind them.
fn formats(bytes: &[u8]) {
    let Some((&which, rest)) = bytes.split_first() else { return };
    match FORMATS.get(usize::from(which) % (FORMATS.len() + 1)) {
        Some((check, _)) => check(rest),
        None => atoll_membership::fuzz::datagram(rest),
    }
}

fn formats_seeds() -> Vec<Vec<u8>> {
    let all = FORMATS.iter().map(|(_, seeds)| seeds()).chain([atoll_membership::fuzz::datagram_seeds()]);
    let led = |(which, seeds): (usize, Vec<Vec<u8>>)| {
        seeds.into_iter().map(move |seed| [vec![which as u8], seed].concat())
    };
    all.enumerate().flat_map(led).collect()
}

static TARGET: OnceLock<&Target> = OnceLock::new();

fn prepare() {
    let Some(target) =
        env::var("ATOLL_FUZZ_TARGET").ok().and_then(|name| TARGETS.iter().find(|target| target.name == name))
    else {
        TARGETS.iter().for_each(|target| println!("{}", target.name));
        std::process::exit(0);
    };
    // A panic's report takes memory, too.
    let report = panic::take_hook();
    panic::set_hook(Box::new(move |panicked| {
        let _ = ALLOCATOR.set_limit(usize::MAX);
        report(panicked);
    }));
    let seeds = (target.seeds)();
    // What is built once is built now, and not counted as an input's.
    seeds.iter().for_each(|seed| (target.run)(seed));
    if let Ok(folder) = env::var("ATOLL_FUZZ_SEEDS") {
        for (number, seed) in seeds.iter().enumerate() {
            fs::write(Path::new(&folder).join(format!("seed-{number}")), seed)
                .expect("the seeds have a folder");
        }
    }
    assert!(TARGET.set(target).is_ok(), "prepared once");
}

libfuzzer_sys::fuzz_target!(init: prepare(), |bytes: &[u8]| {
    let target = TARGET.get().expect("prepared");
    let most = target.bytes_min + BYTES_PER_BYTE * bytes.len();
    let _ = ALLOCATOR.set_limit(ALLOCATOR.allocated() + most);
    (target.run)(bytes);
    let _ = ALLOCATOR.set_limit(usize::MAX);
});
