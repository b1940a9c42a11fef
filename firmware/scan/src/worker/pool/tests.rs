//! What a worker may not ask for: it reads hostile bytes, and is not believed.

use std::io::{Read as _, Write as _};

use super::*;

/// What becomes of a mail whose worker asks for these stretches, and reads them.
async fn exchange_with(mail_bytes: usize, wanted: Vec<u64>) -> Result<Analysis, PoolError> {
    let (near, mut far) = StdUnixStream::pair().unwrap();
    near.set_nonblocking(true).unwrap();
    let stream = BufReader::with_capacity(READ_BYTES, UnixStream::from_std(near).unwrap());
    let mut worker = Worker { stream, generation: 0, _child: None };
    let asking = std::thread::spawn(move || {
        let mut reader = far.try_clone().unwrap();
        let _: Request = super::super::receive(&mut reader).unwrap();
        for at in wanted {
            let count = (mail_bytes as u64).saturating_sub(at).min(STRETCH_BYTES);
            let mut stretch = vec![0; usize::try_from(count).unwrap()];
            // The daemon may have enough, and close.
            let more = encode(&Answer::More { at }).unwrap();
            if far.write_all(&more).is_err() || reader.read_exact(&mut stretch).is_err() {
                return;
            }
        }
        let _ = far.write_all(&encode(&Answer::Done(Box::default())).unwrap());
    });
    let mail = Spooled::from(Bytes::from(vec![b'x'; mail_bytes]));
    let (exported, _objects) = mpsc::channel(1);
    let time = Duration::from_secs(30);
    let spooler = Spooler::default();
    let done = worker.exchange(&mail, Export::Nothing, time, &spooler, &exported).await;
    drop(worker);
    asking.join().unwrap();
    done
}

fn is_refused(done: &Result<Analysis, PoolError>) -> bool {
    matches!(done, Err(PoolError::Died(WorkerError::Socket(error)))
        if error.kind() == io::ErrorKind::InvalidData)
}

#[tokio::test]
async fn a_worker_may_ask_for_a_mail_again_but_not_for_ever() {
    let bytes = usize::try_from(HELD_BYTES_MAX + 1).unwrap();
    // The last byte only: two stretches are all of it.
    let often = |times| vec![HELD_BYTES_MAX; usize::try_from(times).unwrap()];
    assert!(exchange_with(bytes, often(2 * PASSES_MAX)).await.is_ok());
    assert!(is_refused(&exchange_with(bytes, often(2 * PASSES_MAX + 1)).await));
    assert!(exchange_with(bytes, vec![0, HELD_BYTES_MAX, 0]).await.is_ok());
}

#[tokio::test]
async fn a_worker_may_ask_for_nothing_that_is_not_there() {
    let bytes = usize::try_from(HELD_BYTES_MAX + 1).unwrap();
    for at in [HELD_BYTES_MAX + 1, u64::MAX] {
        assert!(is_refused(&exchange_with(bytes, vec![at]).await), "{at}");
    }
    // What was sent with the request is not sent again.
    assert!(is_refused(&exchange_with(100, vec![0]).await));
}
