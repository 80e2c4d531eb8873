//! Time limits of tests, adjustable to slow machines.

use std::time::Duration;

/// Multiplies a time limit by the factor in `SHIFTBIND_TEST_PATIENCE`, for emulated or loaded machines.
///
/// Only for limits after which a test is taken to hang or a result to be late, never for a time that has to pass.
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
