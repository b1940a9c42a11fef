//! Server-sent events (HTML Living Standard, section 9.2): a page that stays up to date.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::{Body, Bytes, HttpBody};
use axum::http::header;
use axum::response::{IntoResponse as _, Response};
use hyper::body::Frame;
use tokio::sync::{mpsc, watch};

/// An answer that sends the latest text, and each one after it. A reader that is slow misses some
/// and never waits for an old one; with the last sender gone it ends.
#[must_use]
pub fn events(mut texts: watch::Receiver<String>) -> Response {
    // One in hand: the next text is looked at when the socket has taken this one.
    let (sender, receiver) = mpsc::channel(1);
    tokio::spawn(async move {
        texts.mark_changed();
        while texts.changed().await.is_ok() {
            let event = event(&texts.borrow_and_update());
            if sender.send(event).await.is_err() {
                return;
            }
        }
    });
    ([(header::CONTENT_TYPE, "text/event-stream")], Body::new(Events(receiver))).into_response()
}

/// One event. A line break in the text would end its field.
fn event(text: &str) -> Bytes {
    let mut event = String::with_capacity(text.len() + 16);
    for line in text.lines() {
        event.push_str("data: ");
        event.push_str(line);
        event.push('\n');
    }
    event.push('\n');
    event.into()
}

struct Events(mpsc::Receiver<Bytes>);

impl HttpBody for Events {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(cx).map(|event| event.map(|event| Ok(Frame::data(event))))
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    async fn next(body: &mut Body) -> Option<String> {
        let frame = poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx)).await?;
        let data = frame.unwrap().into_data().unwrap();
        Some(String::from_utf8(data.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn the_latest_text_is_sent_and_old_ones_are_skipped() {
        let (sender, receiver) = watch::channel("one\ntwo".to_owned());
        let mut body = events(receiver).into_body();
        assert_eq!(next(&mut body).await.unwrap(), "data: one\ndata: two\n\n");
        for n in 0..1_000 {
            sender.send_replace(n.to_string());
        }
        let mut seen = 0;
        while next(&mut body).await.unwrap() != "data: 999\n\n" {
            seen += 1;
        }
        assert!(seen < 3, "{seen}");
        drop(sender);
        assert_eq!(next(&mut body).await, None);
    }
}
