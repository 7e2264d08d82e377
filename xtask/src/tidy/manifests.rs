//! Who may depend on whom.

use toml::Table;

use super::{Crate, House};

/// DESIGN.md's house from the roof to the ground; arrows point down only. The proof
/// crates stand above what they prove, and below the binary that offers them to users.
const HOUSE: [&str; 24] = [
    "atoll",
    "atoll-lab",
    "atoll-simulation",
    "atoll-node",
    "atoll-gateway",
    "atoll-services",
    "atoll-functions",
    "atoll-search",
    "atoll-edge",
    "atoll-events",
    "atoll-objects",
    "atoll-access",
    "atoll-records",
    "atoll-membership",
    "atoll-transport",
    "atoll-disk",
    "atoll-runtime",
    "atoll-overlay",
    "atoll-swarm",
    "atoll-placement",
    "atoll-types",
    // Not of the house, but in the yard.
    "fuzz",
    "tests",
    "xtask",
];

/// The crates that never see a socket, a clock, a thread or OS randomness.
pub(super) const CORES: [&str; 4] = ["atoll-overlay", "atoll-swarm", "atoll-placement", "atoll-types"];

/// Libraries with a keeper: only these crates may depend on them.
const KEPT: [(&str, &[&str], &str); 14] = [
    ("clap", &["atoll", "atoll-lab"], "only the binary reads flags"),
    ("comfy-table", &["atoll", "atoll-lab"], "only the binary prints"),
    ("indicatif", &["atoll", "atoll-lab"], "only the binary prints"),
    ("miette", &["atoll", "atoll-lab"], "only the binary prints"),
    ("tracing-subscriber", &["atoll", "atoll-lab"], "only the binary decides where logs go"),
    ("fjall", &["atoll-disk"], "it has threads of its own, which stay behind the seam"),
    ("foyer", &["atoll-disk"], "it has threads of its own, which stay behind the seam"),
    ("raft", &["atoll-records"], "consensus is the records' affair"),
    ("foca", &["atoll-membership"], "the view of who is alive is membership's affair"),
    ("s3s", &["atoll-gateway"], "S3 is spoken at the edge and known nowhere else"),
    ("axum", &["atoll-gateway"], "HTTP is spoken at the edge"),
    ("tokio-rustls", &["atoll-transport", "atoll-gateway", "atoll"], "TLS ends at the seams and the edge"),
    ("iroh", &["atoll-transport"], "connections between nodes are the transport's affair"),
    ("wasmtime", &["atoll-functions"], "components run in one crate"),
];

/// What brings a socket, a clock, a thread or OS randomness into a core.
const NOT_IN_CORES: [&str; 10] = [
    "tokio",
    "futures-util",
    "hyper",
    "getrandom",
    "atoll-runtime",
    "async-trait",
    "tracing",
    "mio",
    "rustls",
    "nix",
];

pub(super) fn complaints(house: &House) -> Vec<String> {
    let mut complaints = root(&house.root_manifest);
    for part in &house.crates {
        complaints.extend(names(part));
        complaints.extend(inherited(part));
        complaints.extend(arrows(part));
        complaints.extend(kept(part));
        complaints.extend(breakable(part));
    }
    complaints
}

fn name(part: &Crate) -> &str {
    part.manifest.get("package").and_then(|package| package.get("name")?.as_str()).unwrap_or("")
}

fn dependencies(part: &Crate) -> impl Iterator<Item = &String> {
    section(part, "dependencies").chain(section(part, "build-dependencies")).map(|(name, _)| name)
}

fn section<'a>(
    part: &'a Crate,
    section: &str,
) -> impl Iterator<Item = (&'a String, &'a toml::Value)> + use<'a> {
    part.manifest.get(section).and_then(toml::Value::as_table).into_iter().flat_map(Table::iter)
}

fn names(part: &Crate) -> Vec<String> {
    let (folder, name) = (&part.folder, name(part));
    let mut complaints = Vec::new();
    if !["xtask", "tests"].contains(&folder.as_str()) && folder != name {
        complaints
            .push(format!("crates/{folder} calls itself {name:?}: the folder's name is the crate's name."));
    }
    if let Some(vague) = ["util", "common", "helper"].iter().find(|vague| name.contains(**vague)) {
        complaints.push(format!(
            "The crate {name} is called after nothing in particular ({vague}): name what it owns."
        ));
    }
    if !HOUSE.contains(&folder.as_str()) {
        complaints.push(format!(
            "The crate {folder} has no place in the house: put it into DESIGN.md's list and xtask's HOUSE."
        ));
    }
    complaints
}

/// Versions, lints and the edition are the workspace's.
fn inherited(part: &Crate) -> Vec<String> {
    let folder = &part.folder;
    let mut complaints = Vec::new();
    for kind in ["dependencies", "dev-dependencies", "build-dependencies"] {
        for (dependency, wanted) in section(part, kind) {
            if wanted.get("workspace").and_then(toml::Value::as_bool) != Some(true) {
                complaints.push(format!(
                    "{folder} sets its own version of {dependency}: write `{dependency}.workspace = true`, and the \
                     version with its reason into the root manifest."
                ));
            }
        }
    }
    let lints = part.manifest.get("lints").and_then(|lints| lints.get("workspace")?.as_bool());
    if lints != Some(true) {
        complaints
            .push(format!("{folder} does not take the workspace's lints: add `[lints] workspace = true`."));
    }
    complaints
}

fn arrows(part: &Crate) -> Vec<String> {
    let place = |name: &str| HOUSE.iter().position(|other| *other == name);
    let Some(mine) = place(&part.folder) else { return Vec::new() };
    let upwards = dependencies(part).filter(|dependency| {
        dependency.starts_with("atoll") && place(dependency).is_some_and(|theirs| theirs <= mine)
    });
    upwards
        .filter(|_| !["fuzz", "xtask", "tests"].contains(&part.folder.as_str()))
        .map(|dependency| {
            format!("{} depends on {dependency}, which stands above it: arrows point down only.", part.folder)
        })
        .collect()
}

fn kept(part: &Crate) -> Vec<String> {
    let folder = part.folder.as_str();
    let mut complaints = Vec::new();
    for dependency in dependencies(part) {
        if CORES.contains(&folder) && NOT_IN_CORES.contains(&dependency.as_str()) {
            complaints.push(format!(
                "{folder} depends on {dependency}: a core sees no socket, clock, thread or OS randomness."
            ));
        }
        for (library, keepers, why) in KEPT {
            if dependency == library && !keepers.contains(&folder) && folder != "tests" {
                complaints.push(format!("{folder} depends on {library}, which is {}'s: {why}.", keepers[0]));
            }
        }
    }
    complaints
}

/// A release can't be broken on purpose: nothing turns the feature on but a command line.
fn breakable(part: &Crate) -> Option<String> {
    let names_it = |list: &toml::Value| {
        let names = list.as_array().into_iter().flatten().filter_map(toml::Value::as_str);
        names.into_iter().any(|name| name == "broken" || name.ends_with("/broken"))
    };
    let features = section(part, "features").filter(|(name, _)| *name != "broken").map(|(_, list)| list);
    let kinds = ["dependencies", "dev-dependencies", "build-dependencies"];
    let wanted = kinds.iter().flat_map(|kind| section(part, kind)).filter_map(|(_, it)| it.get("features"));
    features.chain(wanted).any(names_it).then(|| {
        format!(
            "{} turns on `broken`: what can be broken on purpose is not for builds that people use.",
            part.folder
        )
    })
}

/// Each dependency says why it is there: on its line or on the line above.
fn root(manifest: &str) -> Vec<String> {
    let mut complaints = Vec::new();
    let mut inside = false;
    for line in manifest.lines() {
        let line = line.trim();
        if line.starts_with('[') {
            inside = line == "[workspace.dependencies]";
            continue;
        }
        let Some((dependency, rest)) = line.split_once(" = ").filter(|_| inside && !line.starts_with('#'))
        else {
            continue;
        };
        if dependency.starts_with("atoll-") && rest.contains("\"broken\"") {
            complaints.push(format!("The root manifest turns on `broken` in {dependency}: see `breakable`."));
        }
        if !dependency.starts_with("atoll-") && !rest.contains(" # ") {
            complaints.push(format!(
                "The root manifest does not say why we depend on {dependency}: add a comment to its line."
            ));
        }
    }
    complaints
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(folder: &str, dependencies: &str) -> Crate {
        let manifest = format!(
            "[package]\nname = \"{folder}\"\n[lints]\nworkspace = true\n[dependencies]\n{dependencies}"
        );
        Crate { folder: folder.into(), manifest: manifest.parse().unwrap(), sources: Vec::new() }
    }

    fn check(part: Crate, expected: &[&str]) {
        let house = House { root_manifest: String::new(), crates: vec![part] };
        assert_eq!(complaints(&house), expected);
    }

    #[test]
    fn a_crate_that_obeys_is_not_complained_about() {
        check(part("atoll-records", "atoll-disk.workspace = true\nraft.workspace = true"), &[]);
    }

    #[test]
    fn an_arrow_that_points_up_is_found() {
        check(
            part("atoll-disk", "atoll-records.workspace = true"),
            &["atoll-disk depends on atoll-records, which stands above it: arrows point down only."],
        );
    }

    #[test]
    fn a_core_with_an_executor_is_found() {
        check(
            part("atoll-placement", "tokio.workspace = true"),
            &["atoll-placement depends on tokio: a core sees no socket, clock, thread or OS randomness."],
        );
    }

    #[test]
    fn a_build_that_can_be_broken_is_found() {
        check(
            part("atoll-node", "atoll-runtime = { workspace = true, features = [\"broken\"] }"),
            &[
                "atoll-node turns on `broken`: what can be broken on purpose is not for builds that people use.",
            ],
        );
        check(
            part("atoll-node", "[features]\ndefault = [\"atoll-runtime/broken\"]"),
            &[
                "atoll-node turns on `broken`: what can be broken on purpose is not for builds that people use.",
            ],
        );
        check(part("atoll-simulation", "[features]\nbroken = [\"atoll-runtime/broken\"]"), &[]);
    }

    #[test]
    fn a_library_outside_of_its_keeper_is_found() {
        check(
            part("atoll-objects", "s3s.workspace = true"),
            &[
                "atoll-objects depends on s3s, which is atoll-gateway's: S3 is spoken at the edge and known nowhere else.",
            ],
        );
    }

    #[test]
    fn a_version_outside_of_the_root_is_found() {
        check(
            part("atoll-types", "serde = \"1\""),
            &[
                "atoll-types sets its own version of serde: write `serde.workspace = true`, and the version with its \
               reason into the root manifest.",
            ],
        );
    }

    #[test]
    fn a_crate_without_a_place_or_lints_is_found() {
        let mut stray = part("atoll-util", "");
        stray.manifest.remove("lints");
        check(
            stray,
            &[
                "The crate atoll-util is called after nothing in particular (util): name what it owns.",
                "The crate atoll-util has no place in the house: put it into DESIGN.md's list and xtask's HOUSE.",
                "atoll-util does not take the workspace's lints: add `[lints] workspace = true`.",
            ],
        );
    }

    #[test]
    fn a_dependency_without_a_reason_is_found() {
        let manifest = "[workspace.dependencies]\natoll-types = { path = \"x\" }\na = \"1\" # why\nb = \"1\"\n[profile.dev]\nc = 1";
        assert_eq!(
            root(manifest),
            ["The root manifest does not say why we depend on b: add a comment to its line."]
        );
    }
}
