//! One attempt to get a certificate: the account, the order, the proofs, the certificate.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use instant_acme::{
    Account, AuthorizationStatus, ChallengeType, Identifier, NewAccount, NewOrder, Order, OrderStatus, RetryPolicy,
};

use super::challenge::Challenges;
use super::failure::AcmeError;
use super::http::{Https, Manners};
use super::store::{KeptAccount, Store};
use crate::config::Acme;
use crate::tls::Loaded;

/// How often and how long the CA is asked whether it has come to an end, where it does not say.
const POLL: RetryPolicy =
    RetryPolicy::new().initial_delay(Duration::from_millis(250)).backoff(1.5).timeout(Duration::from_secs(3 * 60));

/// A certificate for all names of `settings`, already kept in `store`.
pub(super) async fn obtain(
    settings: &Acme,
    store: &Store,
    challenges: &Arc<Challenges>,
    manners: &Manners,
) -> Result<Loaded, AcmeError> {
    let (ca_file, manners) = (settings.ca_file.clone(), manners.clone());
    let https = beside(move || Ok(Https::new(ca_file.as_deref(), manners)?)).await?;
    let mut order = match order(settings, store, &https).await {
        Err(error) if error.account_is_gone() => {
            // A CA that was set up anew. The next account is a new one.
            let old = store.clone();
            beside(move || {
                old.drop_account();
                Ok(())
            })
            .await?;
            order(settings, store, &https).await?
        }
        other => other?,
    };
    prove(&mut order, challenges).await?;
    let pem = finish(&mut order, settings).await?;
    let store = store.clone();
    beside(move || {
        let loaded = store.parse(pem.as_bytes()).map_err(|e| AcmeError::Unusable(e.to_string()))?;
        if !store.is_for_these_names(&loaded) {
            return Err(AcmeError::Unusable(format!("it is for {}", loaded.view.names.join(", "))));
        }
        if loaded.view.until <= SystemTime::now() {
            let until = humantime::format_rfc3339_seconds(loaded.view.until);
            return Err(AcmeError::Unusable(format!("by this machine's clock it ended at {until}; is that right?")));
        }
        store.save_certificate(pem.as_bytes())?;
        Ok(loaded)
    })
    .await
}

/// Runs what blocks beside the main thread, which serves connections meanwhile.
async fn beside<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, AcmeError> + Send + 'static,
) -> Result<T, AcmeError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|_| Err(AcmeError::Make("the daemon is stopping".into())))
}

async fn order(settings: &Acme, store: &Store, https: &Https) -> Result<Order, AcmeError> {
    let account = account(settings, store, https).await?;
    let identifiers: Vec<Identifier> = settings.names.iter().map(|name| Identifier::Dns(name.clone())).collect();
    account.new_order(&NewOrder::new(&identifiers)).await.map_err(AcmeError::of("the order"))
}

/// The kept account, or a new one.
async fn account(settings: &Acme, store: &Store, https: &Https) -> Result<Account, AcmeError> {
    let contact: Vec<&str> = settings.contact.iter().map(String::as_str).collect();
    let builder = Account::builder_with_http(Box::new(https.clone()));
    let reading = store.clone();
    let keeping = store.clone();
    let Some(kept) = beside(move || reading.account()).await? else {
        let wanted = NewAccount { contact: &contact, terms_of_service_agreed: true, only_return_existing: false };
        let made = builder.create(&wanted, settings.directory.clone(), None).await;
        let (account, credentials) = made.map_err(AcmeError::of("the account"))?;
        tracing::info!("an account was made at {}", settings.directory);
        let kept =
            KeptAccount { directory: settings.directory.clone(), contact: settings.contact.clone(), credentials };
        beside(move || keeping.save_account(&kept)).await?;
        return Ok(account);
    };
    if kept.contact == settings.contact {
        return builder.from_credentials(kept.credentials).await.map_err(AcmeError::of("the CA's directory"));
    }
    // Read once more, for what is kept cannot be copied.
    let reading = store.clone();
    let again = beside(move || reading.account()).await?;
    let account = builder.from_credentials(kept.credentials).await.map_err(AcmeError::of("the CA's directory"))?;
    account.update_contacts(&contact).await.map_err(AcmeError::of("the account's contacts"))?;
    if let Some(again) = again {
        let kept = KeptAccount { contact: settings.contact.clone(), ..again };
        beside(move || keeping.save_account(&kept)).await?;
    }
    Ok(account)
}

/// Proves every name that the CA does not take for proved already.
async fn prove(order: &mut Order, challenges: &Arc<Challenges>) -> Result<(), AcmeError> {
    // Answered until the CA has come to an end with all of them.
    let mut under_way = Vec::new();
    let mut authorizations = order.authorizations();
    while let Some(authorization) = authorizations.next().await {
        let mut authorization = authorization.map_err(AcmeError::of("what is to be proved"))?;
        let name = authorization.identifier().to_string();
        match authorization.status {
            AuthorizationStatus::Pending => {}
            AuthorizationStatus::Valid => continue,
            _ => return Err(AcmeError::NotProvedSilently { name }),
        }
        let Some(mut challenge) = authorization.challenge(ChallengeType::TlsAlpn01) else {
            return Err(AcmeError::NoChallenge { name });
        };
        under_way.push(challenges.begin(&name, challenge.key_authorization().digest().as_ref())?);
        challenge.set_ready().await.map_err(AcmeError::of("the challenge"))?;
    }
    let ended = order.poll_ready(&POLL).await;
    drop(under_way);
    match ended {
        Ok(OrderStatus::Ready) => Ok(()),
        // The order says at most that something was not proved, its parts say what.
        Ok(_) => Err(not_proved(order).await.unwrap_or(AcmeError::NotProvedSilently { name: "a name".into() })),
        Err(error @ instant_acme::Error::Api(_)) => {
            Err(not_proved(order).await.unwrap_or_else(|| AcmeError::of("the order")(error)))
        }
        Err(error) => Err(AcmeError::of("proving the names")(error)),
    }
}

/// The first name that was not proved, and why.
async fn not_proved(order: &mut Order) -> Option<AcmeError> {
    let mut authorizations = order.authorizations();
    while let Some(Ok(mut authorization)) = authorizations.next().await {
        let state = authorization.refresh().await.ok()?;
        let name = state.identifier().to_string();
        if let Some(problem) = state.challenges.iter().find_map(|challenge| challenge.error.clone()) {
            return Some(AcmeError::NotProved { name, problem });
        }
    }
    None
}

/// A new key and the chain for it, in PEM.
async fn finish(order: &mut Order, settings: &Acme) -> Result<String, AcmeError> {
    let make = |e: rcgen::Error| AcmeError::Make(e.to_string());
    let mut params = rcgen::CertificateParams::new(settings.names.clone()).map_err(make)?;
    params.distinguished_name = rcgen::DistinguishedName::new();
    let key = rcgen::KeyPair::generate().map_err(make)?;
    let request = params.serialize_request(&key).map_err(make)?;
    order.finalize_csr(request.der()).await.map_err(AcmeError::of("the request for the certificate"))?;
    let chain = order.poll_certificate(&POLL).await.map_err(AcmeError::of("the certificate"))?;
    Ok(key.serialize_pem() + &chain)
}
