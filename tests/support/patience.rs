//! How long tests wait before they give up.

use std::time::Duration;

/// Stretches a time limit by the factor in `SHIFTBIND_TEST_PATIENCE`, for machines that are slower than real ones.
///
/// Only for limits that mean "it hangs", and for those by which a slow machine is late; never for a time that has to pass.
pub(crate) fn patience(limit: Duration) -> Duration {
    limit * factor()
}

fn factor() -> u32 {
    match std::env::var("SHIFTBIND_TEST_PATIENCE") {
        Ok(text) => match text.parse() {
            Ok(factor @ 1..=1000) => factor,
            _ => panic!("SHIFTBIND_TEST_PATIENCE is a number from 1 to 1000, not '{text}'"),
        },
        Err(_) => 1,
    }
}
