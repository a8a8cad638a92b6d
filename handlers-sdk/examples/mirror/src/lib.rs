//! Sends requests for one host to another: a package registry's to the mirror that you keep and scan.
//!
//! For: `npm install`, `pip install` and `cargo fetch` as they are, from packages that you have seen. Policy judges the
//! mirror as it judges every host, so it must be allowed too.
//!
//! ```sh
//! outgate sandbox set-outbound-by-host box registry.npmjs.org mirror \
//!     --params '{"host": "mirror.internal.example", "prefix": "/npm"}'
//! ```

use handlers_sdk::prelude::*;
use serde::Deserialize;

/// `host` may carry a port; `prefix` stands before every path.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Params {
    host: String,
    #[serde(default)]
    prefix: String,
}

/// The same request, elsewhere; credentials for the original are not the mirror's to see.
#[handler]
async fn mirror(mut request: Request, context: Context<Params>) -> Outcome {
    let Params { host, prefix } = context.params();
    let query = request.query().map(|query| format!("?{query}")).unwrap_or_default();
    let path = format!("{prefix}{}{query}", request.path());
    request.set_host(host.as_str());
    request.set_path(path);
    request.headers_mut().remove("authorization");
    request.headers_mut().remove("cookie");
    request.forward()
}

#[cfg(test)]
mod tests {
    use handlers_sdk::testing::{Host, Request};
    use serde_json::json;

    use super::mirror;

    #[test]
    fn host_and_path_are_the_mirrors_and_credentials_stay() {
        let request =
            Request::get("https://registry.npmjs.org/left-pad?v=1").header("Authorization", "Bearer x");
        let params = json!({"host": "mirror.internal.example:8443", "prefix": "/npm"});
        let ran = Host::new().params(params).run::<mirror>(&request);
        assert_eq!(ran.host, Some(("mirror.internal.example".to_owned(), Some(8443))));
        assert_eq!(ran.path.as_deref(), Some("/npm/left-pad?v=1"));
        assert_eq!(ran.header("authorization"), None);
    }
}
