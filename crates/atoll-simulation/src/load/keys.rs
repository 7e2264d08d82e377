//! Names of objects: few that everyone fights for, and many that sort badly.

use rand::{Rng, rngs::StdRng};

use super::{
    Load,
    options::{chance, pick},
};

/// Around the delimiter, escapes, the ends of the alphabet, and case.
const BAD: [&str; 24] = [
    "a",
    "a/",
    "a//",
    "a/b",
    "a/b/c",
    "a-b",
    "a.b",
    "a0",
    "a b",
    "A/b",
    "a+b",
    "a%2Fb",
    "a/\u{1}",
    "a/\u{7f}",
    "ä/ö",
    "\u{ffff}",
    "\u{10ffff}/x",
    "~",
    "/",
    "//",
    "/a",
    "b/a",
    "b/\u{fffd}",
    "z/../a",
];
/// S3's longest key.
const LONGEST: usize = 1024;

pub(super) const PREFIXES: [&str; 8] = ["", "", "key ", "cold/", "a", "a/", "b/", "nothing here"];

/// The names of a load, hot ones first.
pub(super) fn names(load: &Load) -> Vec<String> {
    let hot = (0..load.keys).map(|number| format!("key {number}"));
    let cold = (0..load.cold_keys).map(|number| match number {
        _ if number < BAD.len() => BAD[number].to_owned(),
        _ if number == BAD.len() => format!("long/{}", "x".repeat(LONGEST - 5)),
        _ => format!("cold/{}/{number}", number % 5),
    });
    let names = hot.chain(cold);
    names.filter(|name| !load.over_http || !name.split('/').any(|segment| segment == "..")).collect()
}

pub(super) fn draw(rng: &mut StdRng, load: &Load, names: &[String]) -> String {
    let cold = load.cold_keys > 0 && chance(rng, 25);
    let range = if cold { load.keys..names.len() } else { 0..load.keys };
    names[rng.random_range(range)].clone()
}

/// Where a listing may begin, and by what it may be rolled up.
pub(super) fn draw_listing(
    rng: &mut StdRng,
    names: &[String],
) -> (String, Option<String>, Option<String>, usize) {
    let prefix = (*pick(rng, &PREFIXES)).to_owned();
    let delimiter = rng.random_bool(0.5).then(|| (*pick(rng, &["/", "/", "b", "//"])).to_owned());
    let after = rng.random_bool(0.3).then(|| pick(rng, names).clone());
    let limit = *pick(rng, &[1, 2, 7, 1000]);
    (prefix, delimiter, after, limit)
}
