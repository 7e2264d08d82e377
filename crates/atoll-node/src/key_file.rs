//! The file with the root key that objects are encrypted with: read once, at start, and
//! never from the data folder, which may be stolen with its disk.

use std::{
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use atoll_objects::{ParseRootKeyError, RootKey, RootKeyId};
use rand::{SeedableRng, rngs::StdRng};

/// Nothing was started, and nothing written.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    #[error("can't read {}", path.display())]
    Unreadable {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{} holds no root key", path.display())]
    Malformed {
        path: PathBuf,
        #[source]
        source: ParseRootKeyError,
    },
    #[error("{} lies in the data folder {}", path.display(), data.display())]
    InDataFolder { path: PathBuf, data: PathBuf },
    /// Also if there is such a file: a root key is never overwritten.
    #[error("can't write {}", path.display())]
    Unwritable {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// The root key in `path`.
pub fn read(path: &Path) -> Result<RootKey, KeyFileError> {
    #[allow(clippy::disallowed_methods)] // files that the operator names are this crate's to read
    let text = std::fs::read_to_string(path)
        .map_err(|source| KeyFileError::Unreadable { path: path.into(), source })?;
    RootKey::parse(&text).map_err(|source| KeyFileError::Malformed { path: path.into(), source })
}

/// The same, unless it lies in a node's data folder, which exists.
pub(crate) fn read_outside_of(data: &Path, path: &Path) -> Result<RootKey, KeyFileError> {
    let unreadable = |source| KeyFileError::Unreadable { path: path.into(), source };
    let place = path.canonicalize().map_err(unreadable)?;
    if data.canonicalize().is_ok_and(|data| place.starts_with(data)) {
        return Err(KeyFileError::InDataFolder { path: path.into(), data: data.into() });
    }
    read(path)
}

/// Makes a root key, readable by its owner only.
pub fn create(path: &Path) -> Result<RootKeyId, KeyFileError> {
    let unwritable = |source| KeyFileError::Unwritable { path: path.into(), source };
    let key = RootKey::generate(&mut StdRng::from_os_rng());
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map_err(unwritable)?;
    writeln!(file, "{}", *key.to_text()).and_then(|()| file.sync_all()).map_err(unwritable)?;
    Ok(key.id())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_key_file_is_made_once_for_its_owner_and_read_from_outside_the_data_folder_only() {
        let folder = tempfile::tempdir().unwrap();
        let (data, path) = (folder.path().join("data"), folder.path().join("root.key"));
        std::fs::create_dir(&data).unwrap();
        let id = create(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(matches!(create(&path), Err(KeyFileError::Unwritable { .. })));
        assert_eq!(read_outside_of(&data, &path).unwrap().id(), id);
        let inside = data.join("root.key");
        std::fs::copy(&path, &inside).unwrap();
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(&inside, &link).unwrap();
        for place in [&inside, &link] {
            let refused = read_outside_of(&data, place);
            assert!(matches!(refused, Err(KeyFileError::InDataFolder { .. })), "{}", place.display());
        }
        std::fs::write(&path, "not a key").unwrap();
        let refused = read_outside_of(&data, &path).unwrap_err();
        assert!(matches!(refused, KeyFileError::Malformed { .. }));
        assert!(matches!(read(&folder.path().join("none")), Err(KeyFileError::Unreadable { .. })));
    }
}
