//! What an experiment can be told: named values with defaults, set by name from texts.
//!
//! `parameters!` makes a struct whose fields are the parameters; their comments are what
//! `atoll lab list` says of them, so there is one place for each.

use crate::value::{EMPTY_LIST, Value};

/// Why a parameter was not set. Nothing was run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParameterError {
    #[error("{experiment} has no parameter {name}")]
    Unknown { experiment: &'static str, name: String, known: Vec<&'static str> },
    #[error("{name} can't be {text}: {reason}")]
    Invalid { name: String, text: String, reason: String },
}

/// A parameter, for people.
#[derive(Debug, Clone, PartialEq)]
pub struct Described {
    pub name: &'static str,
    pub meaning: String,
    pub default: Value,
}

/// A struct that `parameters!` made.
pub(crate) trait Parameters: Default {
    fn described() -> Vec<Described>;

    /// Takes a value from its text; false if there is no such parameter. The error says what it
    /// should be.
    fn set(&mut self, name: &str, text: &str) -> Result<bool, String>;

    fn values(&self) -> Vec<(&'static str, Value)>;
}

/// What a parameter can be.
pub(crate) trait Parameter: Sized {
    fn from_text(text: &str) -> Result<Self, String>;
    fn to_value(&self) -> Value;
}

impl Parameter for usize {
    fn from_text(text: &str) -> Result<Self, String> {
        text.replace('_', "").parse().map_err(|_| "it is a whole number".to_owned())
    }

    fn to_value(&self) -> Value {
        (*self).into()
    }
}

impl Parameter for u64 {
    fn from_text(text: &str) -> Result<Self, String> {
        text.replace('_', "").parse().map_err(|_| "it is a whole number".to_owned())
    }

    fn to_value(&self) -> Value {
        (*self).into()
    }
}

/// Never infinite, never less than nothing: no parameter of ours is.
impl Parameter for f64 {
    fn from_text(text: &str) -> Result<Self, String> {
        let number: Option<f64> = text.parse().ok();
        number
            .filter(|number| number.is_finite() && *number >= 0.0)
            .ok_or_else(|| "it is a number that is not negative, such as 0.5".to_owned())
    }

    fn to_value(&self) -> Value {
        (*self).into()
    }
}

impl Parameter for bool {
    fn from_text(text: &str) -> Result<Self, String> {
        text.parse().map_err(|_| "it is true or false".to_owned())
    }

    fn to_value(&self) -> Value {
        Value::Switch(*self)
    }
}

/// 0 to below 1.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd)]
pub struct Share(pub f64);

impl Parameter for Share {
    fn from_text(text: &str) -> Result<Self, String> {
        let share: Option<f64> = text.parse().ok();
        share
            .filter(|share| (0.0..1.0).contains(share))
            .map(Share)
            .ok_or_else(|| "it is a share, 0 to below 1".to_owned())
    }

    fn to_value(&self) -> Value {
        self.0.into()
    }
}

/// How large a network is: 1 to four million, which fit in 4 GiB and are far below the
/// simulator's 2³¹.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct NodeCount(pub usize);

impl NodeCount {
    const MAX: usize = 4_000_000;
}

impl Parameter for NodeCount {
    fn from_text(text: &str) -> Result<Self, String> {
        let count: Option<usize> = text.replace('_', "").parse().ok();
        count
            .filter(|count| (1..=Self::MAX).contains(count))
            .map(NodeCount)
            .ok_or_else(|| format!("it is a number of nodes, 1 to {}", Self::MAX))
    }

    fn to_value(&self) -> Value {
        self.0.into()
    }
}

/// A whole number with limits, which its default keeps too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Within<const MIN: usize, const MAX: usize>(pub usize);

impl<const MIN: usize, const MAX: usize> Parameter for Within<MIN, MAX> {
    fn from_text(text: &str) -> Result<Self, String> {
        let number: Option<usize> = text.parse().ok();
        number
            .filter(|number| (MIN..=MAX).contains(number))
            .map(Within)
            .ok_or_else(|| format!("it is a whole number, {MIN} to {MAX}"))
    }

    fn to_value(&self) -> Value {
        self.0.into()
    }
}

impl<T: Parameter> Parameter for Vec<T> {
    fn from_text(text: &str) -> Result<Self, String> {
        if text == EMPTY_LIST {
            return Ok(Vec::new());
        }
        text.split(',').map(|part| T::from_text(part.trim())).collect()
    }

    fn to_value(&self) -> Value {
        Value::List(self.iter().map(Parameter::to_value).collect())
    }
}

/// A parameter that is one word of a few.
macro_rules! words {
    ($type:ident { $($variant:ident $word:literal),+ }) => {
        impl $type {
            pub const ALL: &[$type] = &[$($type::$variant),+];

            pub fn name(self) -> &'static str {
                match self { $($type::$variant => $word,)+ }
            }
        }

        impl crate::parameters::Parameter for $type {
            fn from_text(text: &str) -> Result<Self, String> {
                let found = $type::ALL.iter().copied().find(|word| word.name() == text);
                found.ok_or_else(|| format!("it is one of: {}", [$($word),+].join(", ")))
            }

            fn to_value(&self) -> crate::value::Value {
                self.name().into()
            }
        }
    };
}

/// A struct of parameters; `+ field: Type` takes another such struct's in.
macro_rules! parameters {
    (
        $(#[doc = $about:literal])*
        pub struct $struct:ident {
            $($(#[doc = $meaning:literal])+ pub $field:ident: $type:ty = $default:expr,)*
            $(+ pub $group:ident: $group_type:ty,)*
        }
    ) => {
        $(#[doc = $about])*
        #[derive(Debug, Clone, PartialEq)]
        pub struct $struct {
            $($(#[doc = $meaning])+ pub $field: $type,)*
            $(pub $group: $group_type,)*
        }

        impl Default for $struct {
            fn default() -> Self {
                Self { $($field: $default,)* $($group: <$group_type>::default(),)* }
            }
        }

        impl crate::parameters::Parameters for $struct {
            fn described() -> Vec<crate::parameters::Described> {
                let default = Self::default();
                #[allow(unused_mut, reason = "not every struct takes another one in")]
                let mut described = vec![$(crate::parameters::Described {
                    name: stringify!($field),
                    meaning: concat!($($meaning),+).trim().to_owned(),
                    default: crate::parameters::Parameter::to_value(&default.$field),
                },)*];
                $(described.extend(<$group_type as crate::parameters::Parameters>::described());)*
                described
            }

            fn set(&mut self, name: &str, text: &str) -> Result<bool, String> {
                match name {
                    $(stringify!($field) => {
                        self.$field = crate::parameters::Parameter::from_text(text)?;
                        Ok(true)
                    })*
                    _ => Ok(false $(|| crate::parameters::Parameters::set(&mut self.$group, name, text)?)*),
                }
            }

            fn values(&self) -> Vec<(&'static str, crate::value::Value)> {
                #[allow(unused_mut, reason = "not every struct takes another one in")]
                let mut values =
                    vec![$((stringify!($field), crate::parameters::Parameter::to_value(&self.$field)),)*];
                $(values.extend(crate::parameters::Parameters::values(&self.$group));)*
                values
            }
        }
    };
}

pub(crate) use {parameters, words};

#[cfg(test)]
mod tests {
    use super::*;

    parameters! {
        /// Of a test.
        pub struct Inner {
            /// The depth.
            pub depth: usize = 3,
        }
    }

    parameters! {
        pub struct Outer {
            /// How many,
            /// at most.
            pub counts: Vec<NodeCount> = vec![NodeCount(1)],
            /// A share.
            pub share: Share = Share(0.5),
            + pub inner: Inner,
        }
    }

    #[test]
    fn parameters_are_set_by_name_and_say_what_they_may_be() {
        let mut outer = Outer::default();
        assert_eq!(outer.set("counts", "10, 2_000"), Ok(true));
        assert_eq!(outer.set("depth", "7"), Ok(true));
        assert_eq!(outer.set("breadth", "7"), Ok(false));
        assert_eq!((outer.counts.clone(), outer.inner.depth), (vec![NodeCount(10), NodeCount(2000)], 7));
        for (name, text, reason) in [
            ("counts", "0", "it is a number of nodes"),
            ("counts", "", "it is a number of nodes"),
            ("counts", "5,", "it is a number of nodes"),
            ("share", "1", "it is a share"),
            ("share", "NaN", "it is a share"),
            ("depth", "-1", "it is a whole number"),
        ] {
            let error = outer.set(name, text).expect_err(text);
            assert!(error.starts_with(reason), "{error}");
        }
        let whole = outer.clone();
        assert_eq!(outer.set("counts", "none"), Ok(true));
        assert_eq!((outer.counts.len(), outer.values()[0].1.to_string()), (0, "none".to_owned()));
        let outer = whole;
        let values: Vec<String> =
            outer.values().into_iter().map(|(name, value)| format!("{name}={value}")).collect();
        assert_eq!(values, ["counts=10,2000", "share=0.5", "depth=7"]);
        assert_eq!(Outer::described()[0].meaning, "How many, at most.");
    }
}
