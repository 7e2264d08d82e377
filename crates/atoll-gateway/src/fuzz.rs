//! Fuzz targets: what browsers post.

pub use crate::s3::fuzz::{form, form_seeds};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_hold() {
        fuzz::exercise(form, form_seeds());
    }
}
