//! Tells an upstream which sandbox calls, in fields that the sandbox cannot set itself.
//!
//! For: services of your own behind the gateway. They trust these fields because only the gateway can reach them.
//!
//! ```sh
//! outgate sandbox set-outbound-by-host box '*.internal.example' identity
//! ```

use handlers_sdk::prelude::*;

/// Replaces `x-sandbox-id`, `x-sandbox-class` and `x-sandbox-labels` by the truth.
#[handler]
async fn identity(mut request: Request, context: Context) -> Outcome {
    let labels: Vec<String> = context.labels().map(|(name, value)| format!("{name}={value}")).collect();
    let headers = request.headers_mut();
    headers.set("x-sandbox-id", context.container_id());
    headers.set("x-sandbox-class", context.class_name());
    headers.set("x-sandbox-labels", labels.join(","));
    request.forward()
}

#[cfg(test)]
mod tests {
    use handlers_sdk::testing::{Host, Request};

    use super::identity;

    #[test]
    fn the_gateways_word_stands_in_place_of_the_sandboxs() {
        let request = Request::get("https://a.internal.example/").header("X_Sandbox_Id", "root");
        let host =
            Host::new().container_id("box-7").class_name("agent").label("team", "blue").label("env", "ci");
        let ran = host.run::<identity>(&request);
        assert_eq!(ran.header("x-sandbox-id"), Some("box-7"));
        assert_eq!(ran.header("x-sandbox-class"), Some("agent"));
        assert_eq!(ran.header("x-sandbox-labels"), Some("team=blue,env=ci"));
    }
}
