//! What fuzz targets ask of formats, whatever they are of: a list of [`Checked`] in each crate
//! that has some, of which an input's first byte chooses one.

use crate::Format;

/// One format, its type forgotten.
#[derive(Clone, Copy)]
pub struct Checked {
    pub name: &'static str,
    check: fn(&[u8]),
    smallest: fn() -> Option<Vec<u8>>,
}

impl Checked {
    pub const fn of<T: Format>() -> Self {
        Self { name: T::NAME, check: reads_back::<T>, smallest: smallest::<T> }
    }
}

/// Zeros that a format with many hashes in it has.
const SMALLEST_BYTES_MAX: usize = 512;

/// Any bytes are refused, or a value whose own encoding means the same.
fn reads_back<T: Format>(bytes: &[u8]) {
    let Ok(value) = T::decode(bytes) else { return };
    let encoded = value.encode();
    let again = T::decode(&encoded).expect("what was encoded is read");
    assert_eq!(again.encode(), encoded, "{}", T::NAME);
}

/// What nothing but zeros means: empty lists, first variants.
fn smallest<T: Format>() -> Option<Vec<u8>> {
    let zeros = (0..SMALLEST_BYTES_MAX).map(|count| [vec![T::VERSION], vec![0; count]].concat());
    zeros.filter_map(|bytes| T::decode(&bytes).ok()).map(|value| value.encode()).next()
}

/// Checks `bytes` but the first, which says as what.
pub fn check(formats: &[Checked], bytes: &[u8]) {
    if let Some((&which, bytes)) = bytes.split_first() {
        (formats[usize::from(which) % formats.len()].check)(bytes);
    }
}

/// An input for each format.
pub fn seeds(formats: &[Checked]) -> Vec<Vec<u8>> {
    let all = formats.iter().enumerate();
    all.filter_map(|(which, format)| Some([vec![which as u8], (format.smallest)()?].concat())).collect()
}
