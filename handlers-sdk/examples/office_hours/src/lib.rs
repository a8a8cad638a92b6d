//! Closes at night: requests pass between two hours, in UTC, on the days that are named.
//!
//! For: sandboxes whose work somebody watches. What runs away at three in the morning runs against a wall.
//!
//! ```sh
//! outgate sandbox set-outbound box officeHours --params '{"from": 8, "to": 18, "weekend": false}'
//! ```

use handlers_sdk::prelude::*;
use serde::Deserialize;

/// Hours of the day from 0 to 24; `to` is the first that is closed. A night shift has `from` above `to`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Params {
    from: u64,
    to: u64,
    #[serde(default)]
    weekend: bool,
}

const HOUR_MS: u64 = 3_600_000;

/// Open or not, by the time at which the request arrived.
#[handler]
async fn office_hours(request: Request, context: Context<Params>) -> Outcome {
    let Params { from, to, weekend } = *context.params();
    let hours = context.now_ms() / HOUR_MS;
    let hour = hours % 24;
    // 1970 began with a Thursday; Monday is 0.
    let day = (hours / 24 + 3) % 7;
    let open = if from <= to { (from..to).contains(&hour) } else { hour >= from || hour < to };
    if open && (weekend || day < 5) {
        return request.forward();
    }
    Outcome::deny(format!("closed: requests pass from {from} to {to} o'clock UTC"))
}

#[cfg(test)]
mod tests {
    use handlers_sdk::testing::{Host, Verdict};
    use serde_json::{Value, json};

    use super::office_hours;

    /// 2026-06-01, a Monday.
    const MONDAY: u64 = 1_780_272_000_000;

    fn open(params: &Value, day: u64, hour: u64) -> bool {
        let host = Host::new().params(params).now_ms(MONDAY + (day * 24 + hour) * super::HOUR_MS);
        host.get::<office_hours>("https://example.com/").verdict == Verdict::Forwarded
    }

    #[test]
    fn hours_and_days_are_kept() {
        let params = json!({"from": 8, "to": 18});
        let expected =
            [(0, 7, false), (0, 8, true), (4, 17, true), (4, 18, false), (5, 12, false), (6, 12, false)];
        for (day, hour, pass) in expected {
            assert_eq!(open(&params, day, hour), pass, "day {day}, hour {hour}");
        }
        assert!(open(&json!({"from": 8, "to": 18, "weekend": true}), 6, 12));
    }

    #[test]
    fn a_night_shift_goes_over_midnight() {
        let params = json!({"from": 22, "to": 6});
        assert_eq!(
            [21, 22, 23, 0, 5, 6].map(|hour| open(&params, 1, hour)),
            [false, true, true, true, true, false]
        );
    }
}
