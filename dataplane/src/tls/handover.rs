//! The pool's master on its way to a plane that joins: sealed to a key that only that plane has (RFC 9180).

use control_wire::pool::{MasterId, POINT_BYTES, Recipient, SEAL_INFO, SealedMaster};
use rustls::crypto::aws_lc_rs::hpke::DH_KEM_X25519_HKDF_SHA256_AES_256;
use rustls::crypto::hpke::{EncapsulatedSecret, Hpke as _, HpkePrivateKey, HpkePublicKey};
use thiserror::Error;
use zeroize::Zeroizing;

use super::master::{MasterError, PoolMaster};

/// Why a master was not handed over.
#[derive(Debug, Error)]
pub enum HandoverError {
    /// No key could be made, or the recipient's is none.
    #[error("the pool's master cannot be sealed for that plane")]
    Key(#[source] rustls::Error),
    /// It was damaged on the way, or sealed for another plane, another key or another master.
    #[error(
        "the pool's master arrived damaged or was sealed for another plane; remove this plane with \
         `outgate plane rm`, make a token with `outgate plane token` and join again"
    )]
    Damaged,
    /// The machine gave no random bytes.
    #[error(transparent)]
    Master(#[from] MasterError),
}

/// The joining plane's end: a key pair for this one join, wiped when dropped.
pub struct Receiver {
    private_key: HpkePrivateKey,
    recipient: Recipient,
}

impl Receiver {
    /// Makes the key pair for the plane of this name.
    ///
    /// # Errors
    /// [`HandoverError::Key`].
    pub fn generate(plane: &str) -> Result<Self, HandoverError> {
        let (public_key, private_key) =
            DH_KEM_X25519_HKDF_SHA256_AES_256.generate_key_pair().map_err(HandoverError::Key)?;
        let public_key: [u8; POINT_BYTES] = public_key.0.try_into().map_err(|_| HandoverError::Damaged)?;
        Ok(Self { private_key, recipient: Recipient { plane: plane.to_owned(), public_key } })
    }

    /// For whom a holder is to seal.
    pub fn recipient(&self) -> &Recipient {
        &self.recipient
    }

    /// Opens what a holder sealed, and proves that it is the master that was announced.
    ///
    /// # Errors
    /// [`HandoverError::Damaged`].
    pub fn open(self, id: &MasterId, sealed: &SealedMaster) -> Result<PoolMaster, HandoverError> {
        let encapsulated = EncapsulatedSecret(sealed.encapsulated.to_vec());
        let opened = DH_KEM_X25519_HKDF_SHA256_AES_256
            .open(
                &encapsulated,
                SEAL_INFO,
                &self.recipient.binding(id),
                &sealed.ciphertext,
                &self.private_key,
            )
            .map(Zeroizing::new)
            .map_err(|_| HandoverError::Damaged)?;
        let master = PoolMaster::from_bytes(&opened).ok_or(HandoverError::Damaged)?;
        // Whoever sealed it may have bound one name to another key.
        if master.id()? == *id { Ok(master) } else { Err(HandoverError::Damaged) }
    }
}

impl PoolMaster {
    /// Seals the master for a plane that joins.
    ///
    /// # Errors
    /// [`HandoverError`]: the recipient's key is none.
    pub fn seal_for(&self, recipient: &Recipient) -> Result<SealedMaster, HandoverError> {
        let binding = recipient.binding(&self.id()?);
        let key = HpkePublicKey(recipient.public_key.to_vec());
        let (encapsulated, ciphertext) = DH_KEM_X25519_HKDF_SHA256_AES_256
            .seal(SEAL_INFO, &binding, self.expose(), &key)
            .map_err(HandoverError::Key)?;
        let encapsulated: [u8; POINT_BYTES] =
            encapsulated.0.try_into().map_err(|_| HandoverError::Damaged)?;
        let ciphertext = ciphertext.try_into().map_err(|_| HandoverError::Damaged)?;
        Ok(SealedMaster { encapsulated, ciphertext })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_master_is_opened_by_the_plane_that_it_was_sealed_for() {
        let master = PoolMaster::ephemeral().unwrap();
        let receiver = Receiver::generate("b").unwrap();
        let sealed = master.seal_for(receiver.recipient()).unwrap();
        assert!(!sealed.ciphertext.windows(32).any(|window| window == master.expose()));
        let opened = receiver.open(&master.id().unwrap(), &sealed).unwrap();
        assert_eq!(opened.expose(), master.expose());
    }

    #[test]
    fn every_flipped_bit_is_refused() {
        let master = PoolMaster::ephemeral().unwrap();
        let id = master.id().unwrap();
        let receiver = Receiver::generate("b").unwrap();
        let sealed = master.seal_for(receiver.recipient()).unwrap();
        let bits = (sealed.encapsulated.len() + sealed.ciphertext.len()) * 8;
        for bit in 0..bits {
            let mut damaged = sealed.clone();
            let mut bytes = damaged.encapsulated.iter_mut().chain(&mut damaged.ciphertext);
            *bytes.nth(bit / 8).unwrap() ^= 1 << (bit % 8);
            let again = receiver.again();
            // The last bit of a point is not part of it (RFC 7748 §5), yet HPKE binds all its bytes.
            assert!(matches!(again.open(&id, &damaged), Err(HandoverError::Damaged)), "bit {bit}");
        }
    }

    #[test]
    fn what_was_sealed_for_another_plane_key_or_master_is_refused() {
        let (master, other) = (PoolMaster::ephemeral().unwrap(), PoolMaster::ephemeral().unwrap());
        let (id, other_id) = (master.id().unwrap(), other.id().unwrap());
        let receiver = Receiver::generate("b").unwrap();
        let renamed = Recipient { plane: "c".into(), ..receiver.recipient().clone() };
        let stranger = Receiver::generate("b").unwrap();
        let refused = |receiver: &Receiver, id, sealed: &SealedMaster| {
            matches!(receiver.again().open(id, sealed), Err(HandoverError::Damaged))
        };
        assert!(refused(&receiver, &id, &master.seal_for(&renamed).unwrap()));
        assert!(refused(&receiver, &id, &master.seal_for(stranger.recipient()).unwrap()));
        assert!(refused(&receiver, &other_id, &master.seal_for(receiver.recipient()).unwrap()));
        assert!(refused(&receiver, &id, &other.seal_for(receiver.recipient()).unwrap()));
        assert!(!refused(&receiver, &id, &master.seal_for(receiver.recipient()).unwrap()));
    }

    impl Receiver {
        /// The same keys once more.
        fn again(&self) -> Self {
            let private_key = self.private_key.secret_bytes().to_vec().into();
            Self { private_key, recipient: self.recipient.clone() }
        }
    }
}
