//! `ListAlerts`: a page of alerts that fulfil a filter, without their regions unless asked for.

use std::{collections::BTreeSet, sync::Arc};

use clarion_proto::{
    alert::{instant, mode},
    error::InvalidField,
    filing::{check_external_id, check_labels},
    ids::AppName,
    wire::v1 as wire,
};
use prost::Message as _;
use tonic::Status;

use super::{Alerts, RESPONSE_BYTES_MAX, answer::Regions, page, status};
use crate::{
    snapshot::State,
    store::{AlertCursor, AlertFilter, AlertRecord},
};

/// Bytes of the field header in front of each alert of a page.
const FRAME_BYTES: usize = 8;

impl Alerts {
    /// Returns one page of alerts.
    pub(super) async fn list(
        &self,
        request: wire::ListAlertsRequest,
    ) -> Result<wire::ListAlertsResponse, Status> {
        let size = page::size(request.page_size).map_err(status::invalid)?;
        let filter = filter(request.filter.unwrap_or_default())
            .map_err(|e| status::invalid(e.within("filter")))?;
        let condition = filter.fingerprint();
        let after = page::alert(&request.page_token, condition).map_err(status::invalid)?;
        // One alert more than requested shows whether there is another page.
        let mut alerts = self
            .api
            .store
            .alerts(&filter, after.as_ref(), size + 1)
            .await
            .map_err(status::store)?;
        let more = alerts.len() > size;
        alerts.truncate(size);
        let known = alerts.as_slice();
        let cursor = |last: &Arc<AlertRecord>| AlertCursor {
            created: last.created,
            name: last.name.clone(),
        };
        let regions = if request.with_regions { Regions::Small } else { Regions::None };
        let (alerts, cut) = within(RESPONSE_BYTES_MAX, known, |alert| self.answer(alert, regions));
        let last = cut.or_else(|| known.last().filter(|_| more));
        let next = last.map(|last| page::after_alert(&cursor(last), condition));
        Ok(wire::ListAlertsResponse { alerts, next_page_token: next.unwrap_or_default() })
    }
}

/// The longest prefix of the answers that fits into a message, at least one answer; and the last
/// answer of the prefix, if answers were left out.
fn within(
    bytes_max: usize,
    alerts: &[Arc<AlertRecord>],
    answer: impl Fn(&AlertRecord) -> wire::Alert,
) -> (Vec<wire::Alert>, Option<&Arc<AlertRecord>>) {
    let mut answers: Vec<wire::Alert> = Vec::new();
    let mut bytes = 0;
    for alert in alerts {
        let next = answer(alert);
        bytes += next.encoded_len() + FRAME_BYTES;
        if bytes > bytes_max && !answers.is_empty() {
            let last = alerts.get(answers.len() - 1);
            return (answers, last);
        }
        answers.push(next);
    }
    (answers, None)
}

/// Checks a filter. The error's field is relative to the filter.
fn filter(filter: wire::AlertFilter) -> Result<AlertFilter, InvalidField> {
    let states = each_once(&filter.states, "states", state)?;
    let modes = each_once(&filter.modes, "modes", mode)?;
    let time = |at, field| Option::map(at, |at| instant(at, field)).transpose();
    let created_from = time(filter.created_after, "created_after")?;
    let created_before = time(filter.created_before, "created_before")?;
    if let (Some(from), Some(before)) = (created_from, created_before)
        && from >= before
    {
        return Err(InvalidField::new(
            "created_before",
            format_args!(
                "must be later than created_after; got {} ms before it",
                from.0 - before.0
            ),
        ));
    }
    check_external_id(&filter.external_id)?;
    let app = match filter.app.as_str() {
        "" => None,
        name => Some(AppName::from_name(name).map_err(|e| e.within("app"))?),
    };
    check_labels(&filter.labels)?;
    Ok(AlertFilter {
        states,
        modes,
        created_from,
        created_before,
        external_id: (!filter.external_id.is_empty()).then_some(filter.external_id),
        app,
        labels: filter.labels.into_iter().collect(),
    })
}

/// Checks a list of enum values that must not repeat, and returns them ascending: so the order does
/// not matter for the page token.
fn each_once<T: Ord>(
    numbers: &[i32],
    field: &str,
    check: impl Fn(i32, &str) -> Result<T, InvalidField>,
) -> Result<Vec<T>, InvalidField> {
    let mut known = BTreeSet::new();
    for (i, &number) in numbers.iter().enumerate() {
        let at = format!("{field}[{i}]");
        if !known.insert(check(number, &at)?) {
            return Err(InvalidField::new(at, format_args!("must not repeat; got {number} twice")));
        }
    }
    Ok(known.into_iter().collect())
}

fn state(number: i32, field: &str) -> Result<State, InvalidField> {
    match wire::State::try_from(number) {
        Ok(wire::State::Active) => Ok(State::Active),
        Ok(wire::State::Cancelling) => Ok(State::Cancelling),
        Ok(wire::State::Cancelled) => Ok(State::Cancelled),
        Ok(wire::State::Resolved) => Ok(State::Resolved),
        Ok(wire::State::Expired) => Ok(State::Expired),
        Ok(wire::State::Unspecified) | Err(_) => Err(InvalidField::new(
            field,
            format_args!("must be a state other than STATE_UNSPECIFIED; got {number}"),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::fixtures::record;

    #[test]
    fn a_page_ends_before_it_is_too_large_for_its_caller() {
        let records: Vec<_> = (1..=5).map(|n| Arc::new(record(&format!("a{n}"), n))).collect();
        // Each says 1,000 bytes.
        let answer = |alert: &AlertRecord| wire::Alert {
            name: alert.name.name(),
            collapse_key: "k".repeat(1_000 - alert.name.name().len() - 5),
            ..wire::Alert::default()
        };
        let page = |bytes_max| {
            let (answers, cut) = within(bytes_max, &records, answer);
            (answers.len(), cut.map(|last| last.name.name()))
        };
        assert_eq!(page(5_040), (5, None));
        assert_eq!(page(5_039), (4, Some("alerts/a4".to_owned())));
        assert_eq!(page(1_008), (1, Some("alerts/a1".to_owned())));
        assert_eq!(page(10), (1, Some("alerts/a1".to_owned())), "one at least");
        assert_eq!(within(10, &[], answer).0.len(), 0);
    }

    #[test]
    fn a_filter_is_refused_by_field() {
        let refused = |wrong: wire::AlertFilter| filter(wrong).expect_err("refused").to_string();
        let none = wire::AlertFilter::default;
        assert_eq!(filter(none()).expect("valid"), AlertFilter::default());
        let at = |seconds| Some(prost_types::Timestamp { seconds, nanos: 0 });
        for (wrong, error) in [
            (wire::AlertFilter { states: vec![1, 0], ..none() }, "states[1]: must be a state"),
            (wire::AlertFilter { states: vec![1, 1], ..none() }, "states[1]: must not repeat"),
            (wire::AlertFilter { modes: vec![9], ..none() }, "modes[0]: must be a known"),
            (wire::AlertFilter { created_after: at(-1), ..none() }, "created_after: must be"),
            (
                wire::AlertFilter { created_after: at(9), created_before: at(9), ..none() },
                "created_before: must be later than created_after; got 0 ms before it",
            ),
            (wire::AlertFilter { external_id: "a\u{200B}".into(), ..none() }, "external_id: must"),
            (wire::AlertFilter { app: "demo".into(), ..none() }, "app"),
            (wire::AlertFilter { labels: [("A".into(), "".into())].into(), ..none() }, "labels: "),
        ] {
            let refused = refused(wrong);
            assert!(refused.starts_with(error), "{refused}");
        }
        // The order of a list is no part of the condition.
        let print =
            |states| filter(wire::AlertFilter { states, ..none() }).map(|f| f.fingerprint());
        assert_eq!(print(vec![1, 2]), print(vec![2, 1]));
        assert_ne!(print(vec![1]), print(vec![2]));
    }
}
