//! One line per event: when, how grave, NLB's event number, what happened.

use super::table::{Paint, Tone};
use crate::status::EventRecord;

/// The event as `covey events` shows it, with its newline.
pub(in crate::cli) fn event(event: &EventRecord, paint: Paint) -> String {
    let severity = format!("{:7}", event.severity);
    let severity = match event.severity.as_str() {
        "error" => paint.tone(Tone::Bad, &severity),
        "warning" => paint.tone(Tone::Busy, &severity),
        _ => severity,
    };
    format!(
        "{}  {:>4}  {severity}  {:>4}  {}\n",
        event.time, event.number, event.id, event.text
    )
}
