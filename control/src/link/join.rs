//! Joining: tokens of one use, and the certificate that a plane gets for one.

use std::time::Duration;

use control_wire::limits::NAME_BYTES_MAX;
use control_wire::message::{JOIN_SECRET_BYTES, ToPlane};
use control_wire::pool::{MasterId, Recipient};
use data_encoding::HEXLOWER;
use zeroize::Zeroizing;

use super::pool::admit;
use super::{Core, LinkError, unix_seconds};
use crate::limits::JOIN_TOKENS_MAX;
use crate::pki::{join_token, sha256};
use crate::store::StoreError;

/// What the keys of planes begin with; the name of the plane follows. The value is its certificate's fingerprint.
pub const PLANE_KEYS: &str = "plane/";

/// Makes a token with which one plane may join, once, within `life`. Answers it with its end in Unix seconds.
///
/// # Errors
/// When the store fails or too many tokens are outstanding.
pub async fn make_join_token(core: &Core, life: Duration) -> Result<(Zeroizing<String>, u64), LinkError> {
    let now = unix_seconds();
    let mut outstanding = 0;
    for (key, end) in core.store.list_local("token/").await? {
        if end.parse::<u64>().is_ok_and(|end| end > now) {
            outstanding += 1;
        } else {
            core.store.take_local(key).await?;
        }
    }
    if outstanding >= JOIN_TOKENS_MAX {
        return Err(LinkError::Protocol("too many join tokens are outstanding; let some be used or end"));
    }
    let mut secret = Zeroizing::new([0; JOIN_SECRET_BYTES]);
    aws_lc_rs::rand::fill(&mut secret[..]).map_err(|_| LinkError::Protocol("no randomness"))?;
    let end = now.saturating_add(life.as_secs());
    core.store.put_local(token_key(&secret), end.to_string()).await?;
    Ok((join_token(&core.authority.fingerprint(), &secret), end))
}

/// Only a hash is stored: who reads the store cannot join.
fn token_key(secret: &[u8; JOIN_SECRET_BYTES]) -> String {
    format!("token/{}", HEXLOWER.encode(&sha256(secret)))
}

pub(super) async fn join(
    core: &Core,
    secret: &[u8; JOIN_SECRET_BYTES],
    recipient: &Recipient,
    csr: &[u8],
    own: MasterId,
) -> Result<ToPlane, LinkError> {
    let refused = |reason: &str| Ok(ToPlane::JoinRefused { reason: reason.to_owned() });
    let plane = &recipient.plane;
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    if plane.is_empty() || plane.len() > NAME_BYTES_MAX || !plane.bytes().all(fits) {
        return refused("a plane's name has 1 to 255 of a-z A-Z 0-9 - _ .");
    }
    // Taken before anything else, so that two planes cannot use it at once.
    let end = match core.store.take_local(token_key(secret)).await? {
        Some(end) if end.parse::<u64>().is_ok_and(|end| end > unix_seconds()) => end,
        Some(_) => return refused("the join token has ended; make a new one: outgate plane token"),
        None => return refused("the join token is unknown or was used; make a new one: outgate plane token"),
    };
    let certificate = match core.authority.sign_plane(plane, csr) {
        Ok(certificate) => certificate,
        Err(_) => return refused("the signing request cannot be read"),
    };
    let fingerprint = HEXLOWER.encode(&sha256(&certificate));
    match admit(core, recipient, &fingerprint, own).await? {
        Ok(master) => Ok(ToPlane::Joined {
            certificate: certificate.to_vec(),
            authority: core.authority.certificate().to_vec(),
            handler_key: core.handler_key,
            master,
        }),
        Err(reason) => {
            // Once the operator has mended that, the token is good for the same plane.
            core.store.put_local(token_key(secret), end).await?;
            refused(&reason)
        }
    }
}

/// Removes a plane: its link closes at once, and it must join again. False where there is none of that name.
///
/// # Errors
/// When the store fails.
pub async fn forget(core: &Core, plane: &str) -> Result<bool, StoreError> {
    // The store first: a link that opens meanwhile finds its certificate gone, or itself removed.
    let known = core.store.take_local(format!("{PLANE_KEYS}{plane}")).await?.is_some();
    core.planes.remove(plane);
    Ok(known)
}
