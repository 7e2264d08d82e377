//! Rights: what a grant gives. A few that people can remember; bucket policies say what
//! these can't.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// A name that is not a right.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no right {name:?}: {known}")]
pub struct ParseRightError {
    name: String,
    known: String,
}

macro_rules! rights {
    ($(#[$doc:meta])* $type:ident { $($(#[$right_doc:meta])* $name:ident = $bit:literal $text:literal),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $type(u8);

        impl $type {
            pub const NONE: Self = Self(0);
            $($(#[$right_doc])* pub const $name: Self = Self(1 << $bit);)*
            pub const ALL: Self = Self($((1 << $bit))|*);

            const NAMES: &[(Self, &str)] = &[$((Self::$name, $text)),*];

            pub fn with(self, other: Self) -> Self {
                Self(self.0 | other.0)
            }

            pub fn without(self, other: Self) -> Self {
                Self(self.0 & !other.0)
            }

            pub fn has(self, other: Self) -> bool {
                self.0 & other.0 == other.0
            }

            pub fn is_none(self) -> bool {
                self.0 & Self::ALL.0 == 0
            }

            /// The names of those that are set, in a fixed order.
            pub fn names(self) -> impl Iterator<Item = &'static str> {
                Self::NAMES.iter().filter(move |(right, _)| self.has(*right)).map(|(_, name)| *name)
            }
        }

        impl FromStr for $type {
            type Err = ParseRightError;

            fn from_str(name: &str) -> Result<Self, ParseRightError> {
                let found = Self::NAMES.iter().find(|(_, known)| *known == name);
                found.map(|(right, _)| *right).ok_or_else(|| ParseRightError {
                    name: name.into(),
                    known: format!("there are {}", Self::ALL.names().collect::<Vec<_>>().join(", ")),
                })
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_set().entries(self.names()).finish()
            }
        }
    };
}

rights! {
    /// What may be done with buckets and what is in them: granted to a user for a bucket,
    /// and the most that a key may do of what its user may.
    Rights {
        /// List a bucket, and read its objects.
        READ = 0 "read",
        /// Write and delete objects.
        WRITE = 1 "write",
        /// Make and delete buckets, and change who may do what to them.
        MANAGE = 2 "manage",
    }
}

rights! {
    /// What a user may do that is about no bucket in particular.
    UserRights {
        /// Make buckets of its own.
        CREATE_BUCKETS = 0 "create-buckets",
        /// Everything with every bucket, as the root user may.
        EVERYTHING = 1 "everything",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rights_have_names_and_the_names_lead_back() {
        for name in Rights::ALL.names() {
            assert_eq!(name.parse::<Rights>().unwrap().names().collect::<Vec<_>>(), [name]);
        }
        assert_eq!(format!("{:?}", Rights::READ.with(Rights::MANAGE)), r#"{"read", "manage"}"#);
        assert!(Rights::ALL.without(Rights::WRITE).has(Rights::READ));
        assert!(!Rights::READ.has(Rights::ALL));
        let error = "raed".parse::<Rights>().unwrap_err();
        assert_eq!(error.to_string(), "there is no right \"raed\": there are read, write, manage");
    }
}
