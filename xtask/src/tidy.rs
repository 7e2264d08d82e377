//! The house rules, as absences: what must not be found in any manifest or source file.
//! Each complaint is a sentence that says what is wrong, where, and what the rule is.
//!
//! They come from DESIGN.md's "The house" and STYLE.md. The rules on manifests are in
//! [`manifests`], those on text in [`sources`]. That each rule can fail is tested next
//! to it, on a house made up for it; that the real house obeys is a test here.

mod manifests;
mod sources;

use std::{fs, io, path::Path};

/// All that the rules look at.
#[derive(Debug, Default)]
pub(crate) struct House {
    /// The root manifest as text: its comments are looked at too.
    pub root_manifest: String,
    pub crates: Vec<Crate>,
}

#[derive(Debug, Default)]
pub(crate) struct Crate {
    /// The folder's name.
    pub folder: String,
    pub manifest: toml::Table,
    pub sources: Vec<Source>,
}

#[derive(Debug)]
pub(crate) struct Source {
    /// From the workspace's root: `crates/atoll-types/src/lib.rs`.
    pub path: String,
    pub text: String,
}

/// Everything that breaks a rule; empty if all is well.
pub(crate) fn untidy(house: &House) -> Vec<String> {
    let mut complaints = manifests::complaints(house);
    complaints.extend(sources::complaints(house));
    complaints
}

impl House {
    pub(crate) fn load(root: &Path) -> io::Result<House> {
        let mut crates = Vec::new();
        for folder in sorted(&root.join("crates"))? {
            if folder.is_dir() {
                crates.push(Crate::load(root, &folder)?);
            }
        }
        let tests = root.join("tests");
        for folder in [root.join("fuzz"), root.join("xtask"), tests] {
            if folder.join("Cargo.toml").exists() {
                crates.push(Crate::load(root, &folder)?);
            }
        }
        Ok(House { root_manifest: fs::read_to_string(root.join("Cargo.toml"))?, crates })
    }
}

impl Crate {
    fn load(root: &Path, folder: &Path) -> io::Result<Crate> {
        let manifest = fs::read_to_string(folder.join("Cargo.toml"))?;
        let manifest = manifest.parse().map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        let mut sources = Vec::new();
        collect(root, folder, &mut sources)?;
        let folder = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Ok(Crate { folder, manifest, sources })
    }
}

fn collect(root: &Path, folder: &Path, sources: &mut Vec<Source>) -> io::Result<()> {
    for path in sorted(folder)? {
        if path.is_dir() {
            collect(root, &path, sources)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path)?;
            let path = path.strip_prefix(root).unwrap_or(&path).to_string_lossy().into_owned();
            sources.push(Source { path, text });
        }
    }
    Ok(())
}

fn sorted(folder: &Path) -> io::Result<Vec<std::path::PathBuf>> {
    let mut paths: Vec<_> =
        fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<io::Result<_>>()?;
    paths.sort();
    Ok(paths)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_house_is_tidy() {
        let house = House::load(crate::chores::root()).unwrap();
        assert!(house.crates.len() > 10, "the crates were not found");
        let complaints = untidy(&house);
        assert!(complaints.is_empty(), "\n{}\n", complaints.join("\n"));
    }
}
