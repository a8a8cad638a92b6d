//! One handler for a fleet, another credential for each sandbox: a label of the sandbox names its secret.
//!
//! For: tenants with keys of their own. The label is the operator's; nothing in the sandbox can change it.
//!
//! ```sh
//! cat > box.yaml <<END
//! sandboxes: {box-7: {template: agent, labels: {secret: tenant-7}}}
//! END
//! outgate apply -f box.yaml
//! outgate secret put tenant-7 --value-file key --host api.example.com
//! ```

use handlers_sdk::prelude::*;

/// Sends the secret that the label `secret` names; a sandbox without the label is refused.
#[handler]
async fn per_sandbox_token(mut request: Request, context: Context) -> Outcome {
    let Some(name) = context.label("secret") else {
        return Outcome::deny("this sandbox has no credential; its operator gives it the label `secret`");
    };
    request.headers_mut().bearer(secret(name));
    request.forward()
}

#[cfg(test)]
mod tests {
    use handlers_sdk::testing::{Host, Verdict};

    use super::per_sandbox_token;

    #[test]
    fn ten_thousand_sandboxes_each_send_their_own() {
        for tenant in 0..10_000 {
            let name = format!("tenant-{tenant}");
            let ran = Host::new().label("secret", &name).get::<per_sandbox_token>("https://api.example.com/");
            assert_eq!(ran.secret("authorization"), Some(("Bearer ", name.as_str())));
        }
    }

    #[test]
    fn a_sandbox_without_the_label_is_refused() {
        let ran = Host::new().label("team", "blue").get::<per_sandbox_token>("https://api.example.com/");
        assert!(matches!(ran.verdict, Verdict::Refused { status: None, .. }), "{ran:?}");
    }
}
