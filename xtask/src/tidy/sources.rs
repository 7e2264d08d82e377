//! What must not be written, and where.

use super::{Crate, House, Source, manifests::CORES};

/// Longer than this, and the file says here why.
const LINES_MAX: usize = 1_200;
const LONG_FILES: [(&str, &str); 0] = [];

/// Words that only some crates may use.
struct Word {
    word: &'static str,
    allowed_in: &'static [&'static str],
    /// Ends the complaint's sentence.
    why: &'static str,
}

const EVERY_SEAM: &[&str] = &[
    "atoll-runtime",
    "atoll-disk",
    "atoll-transport",
    "atoll-gateway",
    "atoll-node",
    "atoll",
    "atoll-lab",
    "fuzz",
    "xtask",
    "tests",
];

/// In the crates' `src` folders, their unit tests excepted.
const WORDS: [Word; 14] = [
    Word {
        word: "println!(",
        allowed_in: &["atoll", "atoll-lab", "fuzz", "tests"],
        why: "only the atoll crate prints",
    },
    Word {
        word: "eprintln!(",
        allowed_in: &["atoll", "atoll-lab", "tests"],
        why: "only the atoll crate prints",
    },
    Word {
        word: "print!(",
        allowed_in: &["atoll", "atoll-lab", "tests"],
        why: "only the atoll crate prints",
    },
    Word {
        word: "env::var",
        allowed_in: &["atoll", "atoll-node", "atoll-simulation", "fuzz", "tests"],
        why: "only atoll-node reads the environment (and the simulation its seed)",
    },
    Word { word: "std::fs", allowed_in: EVERY_SEAM, why: "only the seams touch the operating system" },
    Word { word: "std::net", allowed_in: EVERY_SEAM, why: "only the seams touch the operating system" },
    Word { word: "tokio::fs", allowed_in: &[], why: "files are atoll-disk's, and block on its terms" },
    Word { word: "tokio::net", allowed_in: EVERY_SEAM, why: "only the seams touch the operating system" },
    Word {
        word: "tokio::time",
        allowed_in: &["atoll-runtime", "atoll", "tests"],
        why: "time above the seam is atoll_runtime::Runtime's",
    },
    Word {
        word: "tokio::spawn",
        allowed_in: &["atoll-runtime", "atoll", "tests"],
        why: "tasks above the seam are atoll_runtime::Runtime's",
    },
    Word {
        word: "thread::spawn",
        allowed_in: &["atoll-runtime", "atoll-disk", "tests"],
        why: "nobody above the seams starts threads",
    },
    Word {
        word: "OsRng",
        allowed_in: &["atoll-runtime", "atoll", "tests"],
        why: "randomness above the seam is atoll_runtime::Runtime's",
    },
    Word { word: "thread_rng", allowed_in: &[], why: "randomness is handed in" },
    Word {
        word: "process::exit(",
        allowed_in: &["atoll", "fuzz"],
        why: "only the binary ends the process on purpose",
    },
];

pub(super) fn complaints(house: &House) -> Vec<String> {
    let mut complaints = Vec::new();
    for part in &house.crates {
        for source in &part.sources {
            complaints.extend(headers(part, source));
            complaints.extend(names(source));
            complaints.extend(length(source));
            complaints.extend(everywhere(part, source));
            if is_production(part, source) {
                complaints.extend(words(part, source));
            }
        }
    }
    complaints.extend(stale_exceptions(house));
    complaints
}

/// Tests may do some of what the product may not.
fn is_production(part: &Crate, source: &Source) -> bool {
    part.folder != "tests"
        && source.path.contains("/src/")
        && !source.path.ends_with("tests.rs")
        && !source.path.contains("/tests/")
}

/// The lines of code with their numbers: no comments, and no module of unit tests, which
/// by custom is a file's end.
fn code(source: &Source) -> impl Iterator<Item = (usize, &str)> {
    source
        .text
        .lines()
        .enumerate()
        .map(|(index, line)| (index + 1, line))
        .filter(|(_, line)| !line.trim_start().starts_with("//"))
}

fn production_code(source: &Source) -> impl Iterator<Item = (usize, &str)> {
    let lines: Vec<&str> = source.text.lines().collect();
    let tests = lines
        .windows(2)
        .position(|pair| pair[0].trim() == "#[cfg(test)]" && pair[1].trim_end().ends_with("mod tests {"));
    let end = tests.map_or(usize::MAX, |index| index + 1);
    code(source).take_while(move |(line, _)| *line < end)
}

fn headers(part: &Crate, source: &Source) -> Option<String> {
    let root = source.path.ends_with("/src/lib.rs") || source.path.ends_with("/src/main.rs");
    let module = is_production(part, source) && source.text.lines().count() > 1;
    ((root || module) && !source.text.starts_with("//! ")).then(|| {
        format!(
            "{} does not begin with a `//!` header that says what it is and what it does not know.",
            source.path
        )
    })
}

fn names(source: &Source) -> Option<String> {
    let vague = ["util", "utils", "common", "helper", "helpers", "misc"];
    let found =
        source.path.split('/').map(|word| word.trim_end_matches(".rs")).find(|word| vague.contains(word))?;
    // A test crate's shared fixtures are a folder by cargo's custom.
    Some(format!(
        "{} is called after nothing in particular ({found}): name the noun that it owns.",
        source.path
    ))
}

fn length(source: &Source) -> Option<String> {
    let lines = source.text.lines().count();
    let excused = LONG_FILES.iter().any(|(path, _)| *path == source.path);
    (lines > LINES_MAX && !excused).then(|| {
        format!("{} has {lines} lines: look for the part that owns fields of its own, or say in xtask's LONG_FILES why not.", source.path)
    })
}

fn stale_exceptions(house: &House) -> Vec<String> {
    let sources = || house.crates.iter().flat_map(|part| &part.sources);
    LONG_FILES
        .iter()
        .filter(|(path, _)| {
            !sources().any(|source| source.path == *path && source.text.lines().count() > LINES_MAX)
        })
        .map(|(path, _)| format!("{path} is in xtask's LONG_FILES and is not long: take it out."))
        .collect()
}

/// Rules for every file, tests included.
fn everywhere(part: &Crate, source: &Source) -> Vec<String> {
    // This crate spells the words out in its rules.
    if part.folder == "xtask" {
        return Vec::new();
    }
    let path = &source.path;
    let mut complaints = Vec::new();
    let lines: Vec<(usize, &str)> = code(source).collect();
    for (position, &(number, line)) in lines.iter().enumerate() {
        let trimmed = line.trim();
        if trimmed.starts_with("#[ignore") {
            complaints.push(format!("{path}:{number} ignores a test: one that is not run tells nothing."));
        }
        if trimmed.contains("thread::sleep(") {
            complaints.push(format!("{path}:{number} sleeps: wait for a condition, with a bound."));
        }
        if trimmed.contains("select! {") && part.folder != "atoll" {
            let next = lines.get(position + 1).map_or("", |(_, line)| line.trim());
            if !next.starts_with("biased;") {
                complaints.push(format!(
                    "{path}:{number} has a `select!` that is not `biased`: its choice would be random."
                ));
            }
        }
        if trimmed.starts_with("#[allow(") && !trimmed.contains("reason") && !trimmed.contains(")] //") {
            let mut attribute = lines[position..].iter().take_while(|(_, line)| !line.contains(")]"));
            let opens = attribute.any(|(_, line)| line.contains("reason"));
            let above = source.text.lines().nth(number.saturating_sub(2)).unwrap_or("").trim();
            if !opens && (!above.starts_with("//") || above.starts_with("//!")) {
                complaints
                    .push(format!("{path}:{number} allows a lint and does not say why: add `reason = …`."));
            }
        }
    }
    complaints
}

fn words(part: &Crate, source: &Source) -> Vec<String> {
    if part.folder == "xtask" {
        return Vec::new();
    }
    let mut complaints = Vec::new();
    let lines: Vec<&str> = source.text.lines().collect();
    for (number, line) in production_code(source) {
        for Word { word, allowed_in, why } in &WORDS {
            if mentions(line, word) && !allowed_in.contains(&part.folder.as_str()) {
                complaints.push(format!("{}:{number} says `{word}`: {why}.", source.path));
            }
        }
        for word in ["Instant::now", "SystemTime", "std::thread", "Mutex"] {
            if CORES.contains(&part.folder.as_str()) && mentions(line, word) {
                complaints.push(format!(
                    "{}:{number} says `{word}`: a core sees no clock and no thread.",
                    source.path
                ));
            }
        }
        let hashed = mentions(line, "HashMap<") || mentions(line, "HashSet<");
        if hashed && !["atoll", "tests"].contains(&part.folder.as_str()) {
            let excused = |line: &&str| line.to_lowercase().contains("never iterated");
            let around = &lines[number.saturating_sub(4)..number];
            if !around.iter().any(excused) {
                complaints.push(format!(
                    "{}:{number} has a hash map: its order is the process's secret. Take a BTreeMap, or say `never \
                     iterated` above it.",
                    source.path
                ));
            }
        }
    }
    complaints
}

/// `word` in `line`, and not as the tail of a longer one (`eprintln!(` is not `println!(`).
fn mentions(line: &str, word: &str) -> bool {
    line.match_indices(word).any(|(index, _)| {
        !line[..index].chars().next_back().is_some_and(|before| before.is_alphanumeric() || before == '_')
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(folder: &str, path: &str, text: &str, expected: &[&str]) {
        let source = Source { path: path.into(), text: text.into() };
        let part = Crate { folder: folder.into(), manifest: toml::Table::new(), sources: vec![source] };
        let house = House { root_manifest: String::new(), crates: vec![part] };
        assert_eq!(complaints(&house), expected);
    }

    #[test]
    fn a_crate_without_a_header_is_found() {
        check(
            "atoll-disk",
            "crates/atoll-disk/src/lib.rs",
            "mod files;",
            &[
                "crates/atoll-disk/src/lib.rs does not begin with a `//!` header that says what it is and what it does not know.",
            ],
        );
    }

    #[test]
    fn a_vague_module_is_found() {
        check(
            "atoll-disk",
            "crates/atoll-disk/src/utils.rs",
            "//! Things.\n",
            &[
                "crates/atoll-disk/src/utils.rs is called after nothing in particular (utils): name the noun that it owns.",
            ],
        );
    }

    #[test]
    fn a_file_that_grew_too_long_is_found() {
        let text = format!("//! Long.\n{}", "\n".repeat(1_200));
        check(
            "atoll-disk",
            "crates/atoll-disk/src/log.rs",
            &text,
            &[
                "crates/atoll-disk/src/log.rs has 1201 lines: look for the part that owns fields of its own, or say in xtask's LONG_FILES why not.",
            ],
        );
    }

    #[test]
    fn an_ignored_test_and_a_sleeping_one_are_found() {
        check(
            "atoll-disk",
            "crates/atoll-disk/tests/log.rs",
            "#[ignore]\nfn a() {\n    std::thread::sleep(d);\n}\n",
            &[
                "crates/atoll-disk/tests/log.rs:1 ignores a test: one that is not run tells nothing.",
                "crates/atoll-disk/tests/log.rs:3 sleeps: wait for a condition, with a bound.",
            ],
        );
    }

    #[test]
    fn a_select_at_random_is_found_and_a_biased_one_is_not() {
        let text = "//! X.\nselect! {\n    biased;\n}\ntokio::select! {\n    a => {}\n}\n";
        check(
            "atoll-records",
            "crates/atoll-records/src/driver.rs",
            text,
            &[
                "crates/atoll-records/src/driver.rs:5 has a `select!` that is not `biased`: its choice would be random.",
            ],
        );
    }

    #[test]
    fn an_allowed_lint_without_a_reason_is_found() {
        check(
            "atoll-records",
            "crates/atoll-records/src/driver.rs",
            "//! X.\n#[allow(dead_code)]\nfn a() {}\n#[allow(dead_code, reason = \"b\")]\nfn b() {}\n",
            &["crates/atoll-records/src/driver.rs:2 allows a lint and does not say why: add `reason = …`."],
        );
    }

    #[test]
    fn the_operating_system_above_the_seams_is_found_but_not_in_comments_and_tests() {
        let text = "//! X.\nuse std::fs;\n// std::net\n#[cfg(test)]\nmod tests {\n    use std::fs;\n}\n";
        check(
            "atoll-objects",
            "crates/atoll-objects/src/put.rs",
            text,
            &["crates/atoll-objects/src/put.rs:2 says `std::fs`: only the seams touch the operating system."],
        );
    }

    #[test]
    fn printing_is_found_once() {
        check(
            "atoll-node",
            "crates/atoll-node/src/lib.rs",
            "//! X.\nfn a() {\n    eprintln!(\"x\");\n}\n",
            &["crates/atoll-node/src/lib.rs:3 says `eprintln!(`: only the atoll crate prints."],
        );
    }

    #[test]
    fn a_hash_map_is_found_unless_it_is_never_iterated() {
        let text = "//! X.\nstruct A {\n    a: HashMap<u8, u8>,\n\n\n\n    /// Never iterated.\n    b: HashMap<u8, u8>,\n}\n";
        check(
            "atoll-records",
            "crates/atoll-records/src/state.rs",
            text,
            &[
                "crates/atoll-records/src/state.rs:3 has a hash map: its order is the process's secret. Take a BTreeMap, or say `never iterated` above it.",
            ],
        );
    }

    #[test]
    fn a_clock_in_a_core_is_found() {
        check(
            "atoll-placement",
            "crates/atoll-placement/src/lib.rs",
            "//! X.\nfn a() {\n    Instant::now();\n}\n",
            &["crates/atoll-placement/src/lib.rs:3 says `Instant::now`: a core sees no clock and no thread."],
        );
    }
}
