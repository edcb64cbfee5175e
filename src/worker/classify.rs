//! Classifies a bad response: is it the object's fault, its endpoint's, the key's, or the API's? The judge decides, from the responses
//! of other requests; this module waits for it, and turns its classification into the end of a request.

use std::time::Duration;

use super::{context::RunContext, halt::Force, hand_over::How};
use crate::{
    api::judge::{Accusation, FailureClass, Scope, SharedJudge},
    model::{EndpointKind, Reason},
    queue::{CircuitScope, Queue, SharedState},
    store::Store,
};

// A request waits this long for its classification before a control call is wanted, and twice as long for that call's response.
const CLASSIFY_TIMEOUT: Duration = Duration::from_secs(5);

/// Waits for the classification of a bad response, within limits.
pub async fn classify<Q: Queue + SharedState, S: Store>(
    ctx: &RunContext<'_, Q, S>,
    judge: &SharedJudge,
    accusation: &Accusation,
) -> FailureClass {
    let classified = judge.classify(accusation);
    let in_time = async {
        tokio::time::sleep(CLASSIFY_TIMEOUT).await;
        judge.update(|judge| judge.mark_overdue(accusation));
        tokio::time::sleep(2 * CLASSIFY_TIMEOUT).await;
    };
    tokio::select! {
        // A classification that is known counts, even when the run ends in the same moment.
        biased;
        classified = classified => classified,
        () = ctx.halt.forced(Force::StartNothing) => judge.read(|judge| judge.classify(accusation)).unwrap_or(FailureClass::Unknown),
        // No other response came in time to compare with, so the request is returned with nothing counted.
        () = in_time => FailureClass::Unknown,
        // After this time no call may begin, so nothing more can help to decide.
        () = tokio::time::sleep_until(ctx.deadline.calls_end()) => FailureClass::Unknown,
    }
}

/// The end of a request that is not at fault itself.
pub fn held(classified: &FailureClass, reason: &Reason) -> How {
    let code = match classified {
        FailureClass::Wider(Scope::Api) => hold_code(CircuitScope::Api),
        FailureClass::Wider(Scope::Endpoint(kind)) => hold_code(CircuitScope::Endpoint(*kind)),
        FailureClass::Wider(Scope::Key(_)) => "key_rejected",
        FailureClass::Unknown | FailureClass::CallAgain | FailureClass::Object => "undecided",
    };
    How::Held(Reason::new(code, reason.detail.clone()))
}

/// The end of a request whose endpoint's circuit is open.
pub fn set_aside(endpoint: EndpointKind) -> How {
    let code = hold_code(CircuitScope::Endpoint(endpoint));
    How::Held(Reason::new(code, format!("calls to the endpoint `{endpoint}` fail")))
}

/// The reason code of requests that are held because a scope fails. Lifting its holds goes by this code.
pub const fn hold_code(scope: CircuitScope) -> &'static str {
    match scope {
        CircuitScope::Api => "api_fails",
        CircuitScope::Endpoint(EndpointKind::Clan) => "clan_fails",
        CircuitScope::Endpoint(EndpointKind::Player) => "player_fails",
        CircuitScope::Endpoint(EndpointKind::CurrentWar) => "current_war_fails",
        CircuitScope::Endpoint(EndpointKind::LeagueGroup) => "league_group_fails",
        CircuitScope::Endpoint(EndpointKind::LeagueWar) => "league_war_fails",
    }
}
