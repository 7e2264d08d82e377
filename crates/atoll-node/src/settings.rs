//! A node's own settings: flags, then environment (`ATOLL_…`), then `atoll.toml`, then
//! defaults, from one typed definition. Settings that the whole cluster must agree on
//! live in its records, not here.

use std::{fmt, net::SocketAddr, path::PathBuf, time::Duration};

use atoll_types::{ByteSize, Zone};
use serde::Deserialize;

use crate::{
    https::Https,
    overlay::{OverlaySettings, TableSizes},
};

/// What one source says: every field may be left out.
///
/// The field names are the keys of `atoll.toml`; `ATOLL_` and the name in capitals are
/// the environment's; with dashes they are the flags.
#[derive(Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SettingsSource {
    pub data: Option<PathBuf>,
    pub s3_addr: Option<SocketAddr>,
    pub admin_addr: Option<SocketAddr>,
    pub node_addr: Option<SocketAddr>,
    pub advertise_addr: Option<String>,
    pub zone: Option<String>,
    pub capacity: Option<String>,
    pub root_access_key: Option<String>,
    pub root_secret_key: Option<String>,
    pub lifecycle_day: Option<String>,
    pub snapshot_every: Option<String>,
    pub snapshot_keep: Option<String>,
    pub overlay_tables: Option<String>,
    /// Several are separated by commas.
    pub s3_domains: Option<String>,
    pub s3_https: Option<bool>,
    pub s3_cert: Option<PathBuf>,
    pub s3_key: Option<PathBuf>,
    pub key_file: Option<PathBuf>,
}

/// A node's settings, complete.
#[derive(Clone)]
pub struct Settings {
    /// The folder that holds everything this node keeps. Default: `atoll` in the
    /// user's data folder (`$XDG_DATA_HOME`, `~/.local/share`), else `./atoll-data`.
    /// One node a folder: a second refuses to start on it.
    pub data: PathBuf,
    /// Where S3 is served. Default 127.0.0.1:9000: only this machine. Give it an
    /// address that your clients reach.
    pub s3_addr: SocketAddr,
    /// Where the admin API is served. Default 127.0.0.1:9001.
    pub admin_addr: SocketAddr,
    /// Where other nodes connect. Default 0.0.0.0:9002: every interface, since other
    /// machines must reach it; only holders of member keys get past the handshake.
    pub node_addr: SocketAddr,
    /// The `host:port` that other nodes are told. Default: this machine's addresses
    /// with the port of `node_addr`. Set it behind NAT or with several networks.
    pub advertise_addr: Option<String>,
    /// The failure domain: rack, room, site. Copies go to different zones where there
    /// are several. Default `default`.
    pub zone: Zone,
    /// How much this node offers. Default: the size of the file system that holds
    /// `data`, at start. Weighs how many slots the node gets.
    pub capacity: Option<ByteSize>,
    /// The first access key of a new cluster. Default: drawn at random and printed.
    /// Ignored once the cluster exists.
    pub root_key: Option<RootKey>,
    /// How long a day of buckets' lifecycle rules takes. Default: a day. Shorter for tests
    /// only, and then on all nodes.
    pub lifecycle_day: Duration,
    /// How often snapshots of all shards are taken, `None` only when a backup asks. Default: an
    /// hour. The shortest of the running nodes' counts.
    pub snapshot_every: Option<Duration>,
    /// For how long they are kept: what was deleted or replaced takes up space for that long.
    /// Default: 7 days. Set it alike on all nodes; each lets go of those of the shards that it
    /// leads.
    pub snapshot_keep: Duration,
    /// Sizes of the overlay's tables, such as `kademlia_k=1`. Default: those of production. Others
    /// for experiments on small networks only, and then on all nodes.
    pub overlay_tables: TableSizes,
    /// The names under which clients reach S3: `bucket.name` then means that bucket
    /// (virtual-hosted style). `localhost` is always one of them.
    pub s3_domains: Vec<String>,
    /// Whether S3 is served over HTTPS, and with which certificate. Default: plain HTTP, as
    /// behind a proxy or on one machine.
    pub s3_https: Https,
    /// The file with the root key, by which objects are encrypted (SSE-S3). Default: none, and
    /// such objects are refused. The same key at all nodes of the cluster, kept safe elsewhere
    /// too: what is encrypted with it is lost without it.
    pub key_file: Option<PathBuf>,
}

#[derive(Clone)]
pub struct RootKey {
    pub access_key: String,
    pub secret_key: String,
}

impl fmt::Debug for RootKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RootKey({}, …)", self.access_key)
    }
}

/// A setting was refused: the operator's to mend; nothing was started.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    #[error("can't read the settings file {}", path.display())]
    Unreadable {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("the settings file {} is malformed", path.display())]
    Malformed {
        path: PathBuf,
        #[source]
        source: Box<toml::de::Error>,
    },
    #[error("{name} (from {from}) is {value:?}: {reason}")]
    Invalid { name: &'static str, from: &'static str, value: String, reason: String },
    #[error("{given} is set but {missing} is not: a root key needs both")]
    HalfKey { given: &'static str, missing: &'static str },
}

/// The bounds of S3's own keys.
const ACCESS_KEY_CHARS: std::ops::RangeInclusive<usize> = 3..=128;
const SECRET_KEY_CHARS: std::ops::RangeInclusive<usize> = 8..=128;

const SNAPSHOT_EVERY: Duration = Duration::from_secs(3600);
const SNAPSHOT_KEEP: Duration = Duration::from_secs(7 * 86_400);
/// Shorter ones end before all shards have theirs.
const SNAPSHOT_TIME_MIN: Duration = Duration::from_secs(1);

const DAY: Duration = Duration::from_secs(86_400);
/// Shorter ones end before a round has begun.
const DAY_MIN: Duration = Duration::from_secs(1);

impl SettingsSource {
    /// From `ATOLL_…` variables, looked up with `variable`.
    pub fn from_environment(variable: impl Fn(&str) -> Option<String>) -> Result<Self, SettingsError> {
        let address =
            |name: &'static str, variable_name: &str| -> Result<Option<SocketAddr>, SettingsError> {
                variable(variable_name)
                    .map(|value| {
                        value.parse().map_err(|_| SettingsError::Invalid {
                            name,
                            from: "environment",
                            value,
                            reason: "an address looks like 127.0.0.1:9000".into(),
                        })
                    })
                    .transpose()
            };
        Ok(Self {
            data: variable("ATOLL_DATA").map(PathBuf::from),
            s3_addr: address("ATOLL_S3_ADDR", "ATOLL_S3_ADDR")?,
            admin_addr: address("ATOLL_ADMIN_ADDR", "ATOLL_ADMIN_ADDR")?,
            node_addr: address("ATOLL_NODE_ADDR", "ATOLL_NODE_ADDR")?,
            advertise_addr: variable("ATOLL_ADVERTISE_ADDR"),
            zone: variable("ATOLL_ZONE"),
            capacity: variable("ATOLL_CAPACITY"),
            root_access_key: variable("ATOLL_ROOT_ACCESS_KEY"),
            root_secret_key: variable("ATOLL_ROOT_SECRET_KEY"),
            lifecycle_day: variable("ATOLL_LIFECYCLE_DAY"),
            snapshot_every: variable("ATOLL_SNAPSHOT_EVERY"),
            snapshot_keep: variable("ATOLL_SNAPSHOT_KEEP"),
            overlay_tables: variable("ATOLL_OVERLAY_TABLES"),
            s3_domains: variable("ATOLL_S3_DOMAINS"),
            s3_https: match variable("ATOLL_S3_HTTPS").as_deref() {
                None => None,
                Some("true" | "1") => Some(true),
                Some("false" | "0") => Some(false),
                Some(value) => {
                    return Err(SettingsError::Invalid {
                        name: "ATOLL_S3_HTTPS",
                        from: "environment",
                        value: value.into(),
                        reason: "it is true or false".into(),
                    });
                }
            },
            s3_cert: variable("ATOLL_S3_CERT").map(PathBuf::from),
            s3_key: variable("ATOLL_S3_KEY").map(PathBuf::from),
            key_file: variable("ATOLL_KEY_FILE").map(PathBuf::from),
        })
    }

    /// From a settings file's text.
    pub fn from_toml(path: PathBuf, text: &str) -> Result<Self, SettingsError> {
        toml::from_str(text).map_err(|source| SettingsError::Malformed { path, source: Box::new(source) })
    }

    /// This source's values where it has them, `lower`'s otherwise.
    pub fn over(self, lower: SettingsSource) -> SettingsSource {
        SettingsSource {
            data: self.data.or(lower.data),
            s3_addr: self.s3_addr.or(lower.s3_addr),
            admin_addr: self.admin_addr.or(lower.admin_addr),
            node_addr: self.node_addr.or(lower.node_addr),
            advertise_addr: self.advertise_addr.or(lower.advertise_addr),
            zone: self.zone.or(lower.zone),
            capacity: self.capacity.or(lower.capacity),
            root_access_key: self.root_access_key.or(lower.root_access_key),
            root_secret_key: self.root_secret_key.or(lower.root_secret_key),
            lifecycle_day: self.lifecycle_day.or(lower.lifecycle_day),
            snapshot_every: self.snapshot_every.or(lower.snapshot_every),
            snapshot_keep: self.snapshot_keep.or(lower.snapshot_keep),
            overlay_tables: self.overlay_tables.or(lower.overlay_tables),
            s3_domains: self.s3_domains.or(lower.s3_domains),
            s3_https: self.s3_https.or(lower.s3_https),
            s3_cert: self.s3_cert.or(lower.s3_cert),
            s3_key: self.s3_key.or(lower.s3_key),
            key_file: self.key_file.or(lower.key_file),
        }
    }

    /// Checks what was given and fills in the defaults. `home_data` is the user's data
    /// folder, if there is one.
    pub fn complete(self, home_data: Option<PathBuf>) -> Result<Settings, SettingsError> {
        let invalid = |name, value: &str, reason: String| SettingsError::Invalid {
            name,
            from: "settings",
            value: value.into(),
            reason,
        };
        let zone = self.zone.unwrap_or_else(|| Zone::default().0);
        let zone_is_sound = !zone.is_empty()
            && zone.len() <= Zone::BYTES_MAX
            && zone.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
        if !zone_is_sound {
            let reason = format!("a zone is 1 to {} letters, digits, - _ or .", Zone::BYTES_MAX);
            return Err(invalid("zone", &zone, reason));
        }
        let capacity = match self.capacity {
            None => None,
            Some(text) => Some(
                text.parse::<ByteSize>().map_err(|error| invalid("capacity", &text, error.to_string()))?,
            ),
        };
        if capacity == Some(ByteSize(0)) {
            return Err(invalid("capacity", "0", "a node offers more than nothing".into()));
        }
        if let Some(address) = &self.advertise_addr
            && !address
                .rsplit_once(':')
                .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok())
        {
            return Err(invalid("advertise_addr", address, "expected host:port".into()));
        }
        let root_key = match (self.root_access_key, self.root_secret_key) {
            (None, None) => None,
            (Some(_), None) => {
                return Err(SettingsError::HalfKey { given: "root_access_key", missing: "root_secret_key" });
            }
            (None, Some(_)) => {
                return Err(SettingsError::HalfKey { given: "root_secret_key", missing: "root_access_key" });
            }
            (Some(access_key), Some(secret_key)) => {
                let sound = ACCESS_KEY_CHARS.contains(&access_key.len())
                    && access_key.chars().all(|c| c.is_ascii_graphic() && !"/,=".contains(c));
                if !sound {
                    let reason = "an access key is 3 to 128 visible characters without / , =".into();
                    return Err(invalid("root_access_key", &access_key, reason));
                }
                if !SECRET_KEY_CHARS.contains(&secret_key.len()) {
                    return Err(invalid(
                        "root_secret_key",
                        "…",
                        "a secret key is 8 to 128 characters".into(),
                    ));
                }
                Some(RootKey { access_key, secret_key })
            }
        };
        let lifecycle_day = match &self.lifecycle_day {
            None => DAY,
            Some(text) => humantime::parse_duration(text)
                .ok()
                .filter(|day| (DAY_MIN..=DAY).contains(day))
                .ok_or_else(|| invalid("lifecycle_day", text, "it is between 1s and 1d".into()))?,
        };
        let snapshot_time = |name, text: &str| {
            humantime::parse_duration(text)
                .ok()
                .filter(|time| *time >= SNAPSHOT_TIME_MIN)
                .ok_or_else(|| invalid(name, text, "it is 1s or longer, such as 1h or 7d".into()))
        };
        let snapshot_every = match self.snapshot_every.as_deref() {
            None => Some(SNAPSHOT_EVERY),
            Some("off") => None,
            Some(text) => Some(snapshot_time("snapshot_every", text)?),
        };
        let snapshot_keep = match self.snapshot_keep.as_deref() {
            None => SNAPSHOT_KEEP,
            Some(text) => snapshot_time("snapshot_keep", text)?,
        };
        let overlay_tables = match self.overlay_tables.as_deref() {
            None => TableSizes::of(&OverlaySettings::default()),
            Some(text) => text
                .parse::<TableSizes>()
                .map_err(|error| invalid("overlay_tables", text, error.to_string()))?,
        };
        let mut s3_domains = vec!["localhost".to_owned()];
        for domain in self.s3_domains.iter().flat_map(|all| all.split(',')).map(str::trim) {
            let is_sound = !domain.is_empty()
                && domain.chars().all(|c| c.is_ascii_alphanumeric() || "-.".contains(c))
                && !domain.starts_with('.');
            if !is_sound {
                let reason = "a domain is a host's name without a port, such as s3.example.org".into();
                return Err(invalid("s3_domains", domain, reason));
            }
            s3_domains.push(domain.to_owned());
        }
        let s3_https = match (self.s3_cert, self.s3_key, self.s3_https) {
            (None, None, None | Some(false)) => Https::Off,
            (None, None, Some(true)) => Https::SelfMade,
            (Some(cert), Some(key), None | Some(true)) => Https::Given { cert, key },
            (Some(cert), Some(_), Some(false)) => {
                let reason = "a certificate is given, but HTTPS is off".into();
                return Err(invalid("s3_cert", &cert.display().to_string(), reason));
            }
            (Some(cert), None, _) => {
                let reason = "a certificate needs its key: set s3_key".into();
                return Err(invalid("s3_cert", &cert.display().to_string(), reason));
            }
            (None, Some(key), _) => {
                let reason = "a key needs its certificate: set s3_cert".into();
                return Err(invalid("s3_key", &key.display().to_string(), reason));
            }
        };
        Ok(Settings {
            data: self
                .data
                .unwrap_or_else(|| home_data.map_or("atoll-data".into(), |folder| folder.join("atoll"))),
            s3_addr: self.s3_addr.unwrap_or(([127, 0, 0, 1], 9000).into()),
            admin_addr: self.admin_addr.unwrap_or(([127, 0, 0, 1], 9001).into()),
            node_addr: self.node_addr.unwrap_or(([0, 0, 0, 0], 9002).into()),
            advertise_addr: self.advertise_addr,
            zone: Zone(zone),
            capacity,
            root_key,
            lifecycle_day,
            snapshot_every,
            snapshot_keep,
            overlay_tables,
            s3_domains,
            s3_https,
            key_file: self.key_file,
        })
    }
}

/// The user's data folder by the XDG rules.
pub fn home_data(variable: impl Fn(&str) -> Option<String>) -> Option<PathBuf> {
    let absolute = |path: String| Some(PathBuf::from(path)).filter(|path| path.is_absolute());
    variable("XDG_DATA_HOME")
        .and_then(absolute)
        .or_else(|| variable("HOME").and_then(absolute).map(|home| home.join(".local/share")))
}

/// Flags over environment over file over defaults. The file is `file` if given, which
/// must then exist, else `atoll.toml` in the working folder if there is one.
#[allow(clippy::disallowed_methods)] // reading the environment is this crate's to do
pub fn load(flags: SettingsSource, file: Option<PathBuf>) -> Result<Settings, SettingsError> {
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let file = file.or_else(|| variable("ATOLL_SETTINGS").map(PathBuf::from));
    let must_exist = file.is_some();
    let path = file.unwrap_or_else(|| "atoll.toml".into());
    let from_file = match std::fs::read_to_string(&path) {
        Ok(text) => SettingsSource::from_toml(path, &text)?,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && !must_exist => {
            SettingsSource::default()
        }
        Err(source) => return Err(SettingsError::Unreadable { path, source }),
    };
    flags.over(SettingsSource::from_environment(variable)?).over(from_file).complete(home_data(variable))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn toml(text: &str) -> Result<SettingsSource, SettingsError> {
        SettingsSource::from_toml("atoll.toml".into(), text)
    }

    #[test]
    fn nothing_given_gives_the_defaults() {
        let settings = SettingsSource::default().complete(Some("/home/a/.local/share".into())).unwrap();
        assert_eq!(settings.data, PathBuf::from("/home/a/.local/share/atoll"));
        assert_eq!(settings.s3_addr.to_string(), "127.0.0.1:9000");
        assert_eq!(settings.admin_addr.to_string(), "127.0.0.1:9001");
    }

    #[test]
    fn flags_win_over_environment_over_file() {
        let file = toml("zone = \"file\"\ns3_addr = \"1.1.1.1:1\"\nadmin_addr = \"1.1.1.1:2\"").unwrap();
        let environment = SettingsSource::from_environment(|name| match name {
            "ATOLL_ZONE" => Some("environment".into()),
            "ATOLL_S3_ADDR" => Some("2.2.2.2:1".into()),
            _ => None,
        })
        .unwrap();
        let flags = SettingsSource { zone: Some("flag".into()), ..Default::default() };
        let settings = flags.over(environment).over(file).complete(None).unwrap();
        assert_eq!(settings.zone.0, "flag");
        assert_eq!(settings.s3_addr.to_string(), "2.2.2.2:1");
        assert_eq!(settings.admin_addr.to_string(), "1.1.1.1:2");
    }

    #[test]
    fn an_unknown_key_in_the_file_is_refused() {
        assert!(matches!(toml("zoen = \"a\""), Err(SettingsError::Malformed { .. })));
    }

    #[test]
    fn unsound_values_are_refused() {
        let refused = |source: SettingsSource| source.complete(None).is_err();
        let none = SettingsSource::default;
        assert!(refused(SettingsSource { zone: Some("a b".into()), ..none() }));
        assert!(refused(SettingsSource { zone: Some(String::new()), ..none() }));
        assert!(refused(SettingsSource { capacity: Some("lots".into()), ..none() }));
        assert!(refused(SettingsSource { capacity: Some("0".into()), ..none() }));
        assert!(refused(SettingsSource { advertise_addr: Some("nowhere".into()), ..none() }));
        assert!(refused(SettingsSource { s3_domains: Some("a:9000".into()), ..none() }));
        assert!(refused(SettingsSource { s3_cert: Some("cert.pem".into()), ..none() }));
        assert!(refused(SettingsSource { s3_key: Some("key.pem".into()), ..none() }));
        assert!(refused(SettingsSource { lifecycle_day: Some("2d".into()), ..none() }));
        assert!(refused(SettingsSource { snapshot_every: Some("never".into()), ..none() }));
        assert!(refused(SettingsSource { snapshot_keep: Some("0s".into()), ..none() }));
        assert!(refused(SettingsSource { overlay_tables: Some("kademlia_k=0".into()), ..none() }));
        assert!(refused(SettingsSource { root_access_key: Some("admin".into()), ..none() }));
    }
}
