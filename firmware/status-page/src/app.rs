//! What is answered to a request.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use box_console::{ask, report, secret};
use box_init::control::Status;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Body;
use hyper::header::{self, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use quarantine::Id;
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};
use tracing::{info, warn};

use crate::Options;
use crate::access::{Gate, Sessions};
use crate::history::History;
use crate::look::{Fresh, Kept, Looked};
use crate::reply::{self, Reply};
use crate::request::{COOKIE, Form, host, is_from_here, session};
use crate::settings::BeforeLogin;
use crate::view::{self, View, Visitor};

/// Longest body of a request, in bytes: a form with a secret in it.
pub(crate) const BODY_BYTES_MAX: usize = 4 * 1024;
/// How long a body may take to arrive.
pub(crate) const BODY_TIME_MAX: Duration = Duration::from_secs(10);
/// How long the box can be snoozed from here, in minutes; the gateway has a limit of its own.
const SNOOZE_MINUTES_MAX: u64 = 24 * 60;
/// How the house's errors end.
const TRY_AGAIN: &str = "try again";

/// All that the page's requests share.
#[derive(Debug)]
pub(crate) struct App {
    pub(crate) options: Arc<Options>,
    pub(crate) history: Mutex<History>,
    /// The name by multicast DNS, as it is now.
    pub(crate) name: Mutex<String>,
    looked: Fresh<Looked>,
    kept: Fresh<Kept>,
    sessions: Mutex<Sessions>,
    gate: Mutex<Gate>,
    /// A secret takes 19 MiB and a core to check: one at a time.
    checking: Semaphore,
    start: Instant,
}

impl App {
    pub(crate) fn new(options: Arc<Options>, history: History, name: String) -> Self {
        Self {
            options,
            history: Mutex::new(history),
            name: Mutex::new(name),
            looked: Fresh::default(),
            kept: Fresh::default(),
            sessions: Mutex::default(),
            gate: Mutex::default(),
            checking: Semaphore::new(1),
            start: Instant::now(),
        }
    }

    /// The answer to any request.
    pub(crate) async fn answer<B>(
        self: Arc<Self>,
        request: Request<B>,
        peer: IpAddr,
    ) -> Response<Reply>
    where
        B: Body<Data = Bytes>,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let (head, body) = request.into_parts();
        let names = self.names().await;
        let Some(host) = host(&head.headers, &names) else {
            return reply::text(
                StatusCode::MISDIRECTED_REQUEST,
                "ask for the box's address or name",
            );
        };
        let (path, method) = (head.uri.path(), &head.method);
        let number = session(&head.headers).unwrap_or_default();
        let is_read = [Method::GET, Method::HEAD].contains(method);
        match path {
            "/style.css" if is_read => {
                reply::asset("text/css; charset=utf-8", include_str!("style.css"))
            }
            "/icon.svg" if is_read => reply::asset("image/svg+xml", include_str!("icon.svg")),
            "/" if is_read => self.page(number, None, StatusCode::OK).await,
            "/login"
            | "/logout"
            | "/snooze"
            | "/resume"
            | "/quarantine/release"
            | "/quarantine/delete"
                if *method == Method::POST =>
            {
                if !is_from_here(&head.headers, host) {
                    return reply::text(
                        StatusCode::FORBIDDEN,
                        "orders are taken from this page alone",
                    );
                }
                let limited = Limited::new(body, BODY_BYTES_MAX).collect();
                let form = match timeout(BODY_TIME_MAX, limited).await {
                    Ok(Ok(body)) => Form::parse(&body.to_bytes()),
                    Ok(Err(_)) => {
                        return reply::text(StatusCode::PAYLOAD_TOO_LARGE, "the form is too long");
                    }
                    Err(_) => {
                        return reply::text(StatusCode::REQUEST_TIMEOUT, "the form is too slow");
                    }
                };
                match path {
                    "/login" => self.log_in(number, &form, peer).await,
                    _ => self.order(path, number, &form).await,
                }
            }
            "/"
            | "/style.css"
            | "/icon.svg"
            | "/login"
            | "/logout"
            | "/snooze"
            | "/resume"
            | "/quarantine/release"
            | "/quarantine/delete" => {
                reply::text(StatusCode::METHOD_NOT_ALLOWED, "this is not done so here")
            }
            _ => reply::text(StatusCode::NOT_FOUND, "there is nothing here"),
        }
    }

    /// Names by which this host may be asked for.
    pub(crate) async fn names(&self) -> Vec<String> {
        let mut names = vec![lock(&self.name).clone()];
        if let Some(Ok(Status { network, .. })) =
            self.look().await.as_deref().map(|look| &look.init)
        {
            names.push(network.settings.hostname.clone());
            names.push(format!("{}.local", network.settings.hostname));
        }
        names
    }

    async fn look(&self) -> Option<Arc<Looked>> {
        let options = Arc::clone(&self.options);
        self.looked.get(move || Looked::now(&options)).await
    }

    async fn page(
        &self,
        number: &str,
        notice: Option<String>,
        status: StatusCode,
    ) -> Response<Reply> {
        let who = lock(&self.sessions).find(number, self.now());
        let Some(look) = self.look().await else {
            return reply::text(StatusCode::INTERNAL_SERVER_ERROR, TRY_AGAIN);
        };
        let shown = if who.is_some() { BeforeLogin::All } else { look.settings.before_login };
        let kept = match shown {
            BeforeLogin::All => {
                let options = Arc::clone(&self.options);
                self.kept.get(move || Kept::now(&options)).await
            }
            _ => None,
        };
        let now_s = (self.options.clock)();
        let banner = match shown {
            BeforeLogin::Short => report::short_banner(&look.init),
            _ => report::banner(&look.init, &look.gateway, &look.page),
        };
        let view = View {
            now_s,
            shown,
            banner,
            day: lock(&self.history).day(u32::try_from(now_s / 60).unwrap_or(u32::MAX)),
            mails: kept.as_ref().map(|kept| kept.mails.clone()),
            quarantine: kept.as_ref().map(|kept| kept.quarantine.clone()),
            snooze_s: look.snooze_s(),
            // The file's text is nobody's business.
            problem: look.problem.clone().filter(|_| who.is_some()),
            visitor: match who {
                Some(who) => Visitor::LoggedIn(who),
                None => Visitor::Anybody(look.door.clone(), notice),
            },
        };
        reply::page(status, view::page(&view))
    }

    async fn log_in(&self, number: &str, form: &Form, peer: IpAddr) -> Response<Reply> {
        let Some(look) = self.look().await else {
            return reply::text(StatusCode::INTERNAL_SERVER_ERROR, TRY_AGAIN);
        };
        // Where no secret is set, the console lets everybody in who stands before it, and this nobody.
        if look.door != secret::Door::Locked {
            return self.page("", None, StatusCode::FORBIDDEN).await;
        }
        let Ok(_permit) = self.checking.acquire().await else {
            return reply::text(StatusCode::INTERNAL_SERVER_ERROR, TRY_AGAIN);
        };
        let waits = lock(&self.gate).wait(peer, self.now());
        if let Some(wait) = waits {
            let seconds = wait.as_secs() + 1;
            let notice = format!("After wrong secrets: wait {seconds} s.");
            return self.page("", Some(notice), StatusCode::TOO_MANY_REQUESTS).await;
        }
        let (options, said) = (Arc::clone(&self.options), form.field("secret").to_owned());
        let verify = move || secret::verify(&options.state, &said);
        if !matches!(tokio::task::spawn_blocking(verify).await, Ok(true)) {
            let delay = lock(&self.gate).wrong(peer, self.now());
            warn!(%peer, "page: a wrong secret");
            let notice = format!("Wrong. The next one is taken in {} s.", delay.as_secs());
            return self.page("", Some(notice), StatusCode::FORBIDDEN).await;
        }
        lock(&self.gate).right(peer);
        let begun = {
            let mut sessions = lock(&self.sessions);
            // A number from before a login is not one after it.
            sessions.end(number);
            sessions.begin(self.now())
        };
        let Some(number) = begun else {
            return reply::text(StatusCode::INTERNAL_SERVER_ERROR, TRY_AGAIN);
        };
        info!(%peer, "page: somebody logged in");
        let cookie =
            format!("{COOKIE}={}; Path=/; Secure; HttpOnly; SameSite=Strict", number.expose());
        with_cookie(reply::see_page(), &cookie)
    }

    /// What only who is logged in may do, from a page of his session.
    async fn order(self: &Arc<Self>, path: &str, number: &str, form: &Form) -> Response<Reply> {
        if !lock(&self.sessions).may_order(number, form.field("form"), self.now()) {
            let notice = "Nothing was done: log in first.".to_owned();
            return self.page("", Some(notice), StatusCode::FORBIDDEN).await;
        }
        let said = match path {
            "/logout" => {
                lock(&self.sessions).end(number);
                let over =
                    format!("{COOKIE}=; Path=/; Secure; HttpOnly; SameSite=Strict; Max-Age=0");
                return with_cookie(reply::see_page(), &over);
            }
            "/snooze" => self.snooze(form.field("minutes")).await,
            "/resume" => self.gateway(json!({ "verb": "resume" })).await.map(|_| {
                info!("page: the snooze was ended");
                "Mail is scanned again.".to_owned()
            }),
            "/quarantine/release" => match self.release(form.field("id")).await {
                Ok(response) => return response,
                Err(problem) => Err(problem),
            },
            _ => self.delete(form.field("id")).await,
        };
        self.looked.forget().await;
        self.kept.forget().await;
        let said = said.unwrap_or_else(|problem| format!("FAIL {problem}"));
        lock(&self.sessions).tell(number, said, self.now());
        reply::see_page()
    }

    async fn snooze(&self, minutes: &str) -> Result<String, String> {
        let minutes = minutes.parse::<u64>().ok().filter(|m| (1..=SNOOZE_MINUTES_MAX).contains(m));
        let minutes =
            minutes.ok_or_else(|| format!("a snooze lasts 1 to {SNOOZE_MINUTES_MAX} min"))?;
        self.gateway(json!({ "verb": "snooze", "seconds": minutes * 60 })).await?;
        warn!(minutes, "page: the box snoozes");
        Ok(format!("Snoozing for {minutes} min: new connections stay on the bridge, unscanned."))
    }

    async fn gateway(&self, request: Value) -> Result<Value, String> {
        let options = Arc::clone(&self.options);
        let ask = move || ask::gateway(&options.gateway, &request, ask::ORDER_WAIT);
        tokio::task::spawn_blocking(ask).await.unwrap_or_else(|_| Err(TRY_AGAIN.to_owned()))
    }

    async fn delete(&self, id: &str) -> Result<String, String> {
        let id: Id = id.parse().map_err(|_| "there is no such item".to_owned())?;
        self.in_vault(move |vault| vault.delete(id)).await?;
        info!(%id, "page: an item of the quarantine was deleted");
        Ok(format!("{id} is deleted."))
    }

    /// The mail, byte for byte, as a file that nothing opens but a mail program.
    async fn release(&self, id: &str) -> Result<Response<Reply>, String> {
        let id: Id = id.parse().map_err(|_| "there is no such item".to_owned())?;
        let content = self.in_vault(move |vault| vault.open_content(id)).await?;
        info!(%id, "page: an item of the quarantine is handed out");
        let chunks = content.map(move |chunk| {
            chunk.map_err(|error| {
                let error = telemetry::chain(&error);
                warn!(%id, error, "page: the item is cut off");
                std::io::Error::other(error)
            })
        });
        Ok(reply::download(&format!("{id}.eml"), chunks))
    }

    async fn in_vault<T: Send + 'static>(
        &self,
        act: impl FnOnce(&quarantine::Vault) -> Result<T, quarantine::VaultError> + Send + 'static,
    ) -> Result<T, String> {
        let options = Arc::clone(&self.options);
        let act = move || {
            let vault = (options.places)()?.vault?;
            act(&vault).map_err(|error| telemetry::chain(&error))
        };
        tokio::task::spawn_blocking(act).await.unwrap_or_else(|_| Err(TRY_AGAIN.to_owned()))
    }

    fn now(&self) -> Duration {
        self.start.elapsed()
    }
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn with_cookie(mut response: Response<Reply>, cookie: &str) -> Response<Reply> {
    if let Ok(value) = HeaderValue::from_str(cookie) {
        response.headers_mut().insert(header::SET_COOKIE, value);
    }
    response
}
