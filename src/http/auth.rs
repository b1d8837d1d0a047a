//! Who may change something, or see keys and payloads: whoever knows the token.

use axum::extract::{Request, State as Shared};
use axum::http::header::{AUTHORIZATION, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use subtle::ConstantTimeEq as _;

use super::State;
use super::answer::Refusal;

/// Lets a request pass that has the token. A browser sends none by itself, so that no foreign page
/// can ask for anything in its user's name.
pub(super) async fn ask_for_token(
    Shared(state): Shared<State>,
    request: Request,
    next: Next,
) -> Response {
    let token = state.0.parts.token.borrow().clone();
    let Some(token) = token else {
        let off = "administration is off: set http.admin_token_file (or http.admin_token)";
        return Refusal::new(StatusCode::FORBIDDEN, off).into_response();
    };
    let given = request.headers().get(AUTHORIZATION);
    let given = given.and_then(|value| bearer(value.as_bytes()));
    if given.is_some_and(|given| bool::from(given.ct_eq(token.expose().as_bytes()))) {
        return next.run(request).await;
    }
    let refusal = Refusal::new(
        StatusCode::UNAUTHORIZED,
        "this needs the header `Authorization: Bearer TOKEN` with the relay's admin token",
    );
    let mut response = refusal.into_response();
    let scheme = HeaderValue::from_static("Bearer realm=\"outbox-relay\"");
    response.headers_mut().insert(WWW_AUTHENTICATE, scheme);
    response
}

fn bearer(value: &[u8]) -> Option<&[u8]> {
    let (scheme, token) = value.split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"Bearer ").then_some(token)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scheme_is_bearer_in_any_case() {
        assert_eq!(bearer(b"Bearer abc"), Some(&b"abc"[..]));
        assert_eq!(bearer(b"bearer abc"), Some(&b"abc"[..]));
        assert_eq!(bearer(b"Basic abcd"), None);
        assert_eq!(bearer(b"Bear"), None);
    }
}
