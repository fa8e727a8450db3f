//! Notifications to systemd; without systemd, nothing is sent.

use sd_notify::NotifyState;

pub(super) fn ready(status: &str) {
    send(&[NotifyState::Ready, NotifyState::Status(status)]);
}

pub(super) fn alive() {
    send(&[NotifyState::Watchdog]);
}

pub(super) fn reloading() {
    // With the time, as Type=notify-reload requires.
    let now = NotifyState::monotonic_usec_now();
    match now {
        Ok(now) => send(&[NotifyState::Reloading, now]),
        Err(_) => send(&[NotifyState::Reloading]),
    }
}

pub(super) fn stopping() {
    send(&[NotifyState::Stopping]);
}

fn send(state: &[NotifyState<'_>]) {
    // There is no receiver if the socket is gone.
    let _ = sd_notify::notify(false, state);
}
