"""
What undoes a transaction without Salt: a script for sh(1), at the next boot, or as soon as the apply has died

The script does to a journal what :py:mod:`_mta_journal` and :py:mod:`_mta_transaction` do: nothing of Salt may
run at a boot before Postfix does, nor after an apply that was killed. Under systemd a unit has it run at the
next boot, and another one watches the apply: it waits for the lock of a file in the journal, ``alive``, which
an apply holds until it ends or dies, however long that takes.
"""

from __future__ import annotations

import contextlib
import logging
import os
import pathlib

from salt.exceptions import CommandExecutionError

import _mta_system
from _mta_minion import CUT_OFF, Minion
from _mta_system import Path

log = logging.getLogger(__name__)

# Of the journal. What is of another one is undone by the script that was made for it.
VERSION = "2"
EDITED = "edited-meanwhile"
NOT_RESTORED = "not-restored"
# How the name ends of what is about to be switched to a place, and of the second name of what was there.
NEW, OLD = ".postfix_mta-new", ".postfix_mta-old"
SCRIPT = "recover.sh"
# In seconds: how long an undo waits for a postconf(1) that edits.
EDIT_PATIENCE = 5
SYSTEMD_RUNS = "/run/systemd/system"
BOOT_UNIT = "postfix-mta-recover.service"
UNIT_DIR = "/etc/systemd/system"
UNIT_TEXT = """\
[Unit]
Description=Undo an interrupted postfix_mta apply before Postfix starts
ConditionPathExists={state_dir}/journal
RequiresMountsFor={state_dir} /etc /var/spool/postfix
Before=postfix.service postfix@-.service saslauthd.service

[Service]
Type=oneshot
ExecStart=/bin/sh {state_dir}/recover.sh boot

[Install]
WantedBy=multi-user.target
"""
# The journal in the words of sh(1): as restore() of _mta_journal and _roll_back() of _mta_transaction do it.
TEXT = """\
#!/bin/sh
# Undoes what an interrupted postfix_mta apply had changed. Called as
#   recover.sh          by hand: waits for no apply that is under way
#   recover.sh boot     before Postfix starts
#   recover.sh watch    waits until the apply that is under way has ended or died
# It tries every entry. A file that somebody else has edited meanwhile is kept beside the restored one.
state="{state_dir}"
journal=$state/journal
way=${{1-hand}}
now=$(date +%Y%m%d-%H%M%S)
aside=$state/{not_restored}-$now
number=1
while [ -e "$aside" ]; do
    number=$((number + 1))
    aside=$state/{not_restored}-$now-$number
done
failed=
units=
umask 077

# Owner and mode of a file or directory.
rights() {{ stat -L -c '%u:%g %a' "$1" 2>/dev/null; }}

# SHA-256 of a file.
sum_of() {{
    sum=$(sha256sum <"$1") && echo "${{sum%% *}}"
}} 2>/dev/null

# Whether $1 is the file, or the symbolic link, $2.
same() {{
    if [ -L "$1" ] || [ -L "$2" ]; then
        [ -L "$1" ] && [ -L "$2" ] && [ "$(readlink "$1")" = "$(readlink "$2")" ]
    else
        [ "$1" -ef "$2" ] || {{ cmp -s "$1" "$2" && [ "$(rights "$1")" = "$(rights "$2")" ]; }}
    fi
}}

# Whether what was saved is what the entry says that it is; one of an older version does not say.
sound() {{
    saved=
    read -r saved <"$entry/saved" || [ -n "$saved" ] || return 0
    case $saved in
        "link "*) [ -L "$entry/content" ] && [ "link $(readlink "$entry/content")" = "$saved" ] ;;
        *) [ "$(sum_of "$entry/content")" = "$saved" ] ;;
    esac
}} 2>/dev/null

# Whether the file itself has been put back, so that the entry has it no more.
moved() {{
    [ ! -e "$entry/content" ] && [ ! -L "$entry/content" ] && [ -s "$entry/saved" ] &&
        [ "$(sum_of "$path")" = "$(cat "$entry/saved")" ]
}}

# Whether what is at $path has been written by the apply, or is what the apply found.
known() {{
    [ ! -L "$path" ] && {{ grep -qxF "$(sum_of "$path")" "$entry/wrote" || cmp -s "$entry/content" "$path"; }}
}} 2>/dev/null

# Keep what is at $path beside it, as $kept, when somebody else has put it there.
keep() {{
    [ -e "$path" ] || [ -L "$path" ] || return 0
    known && return 0
    [ -d "$path" ] && [ ! -L "$path" ] && return 1
    kept=$path.{edited}-$now
    number=1
    while [ -e "$kept" ] || [ -L "$kept" ]; do
        number=$((number + 1))
        kept=$path.{edited}-$now-$number
    done
    ln "$path" "$kept" 2>/dev/null || cp -a "$path" "$kept" || {{ rm -f "$kept"; return 1; }}
}}

# Put the saved file at $path. Where its second name is on the same file system that needs no room on the disk.
# A copy has the access control lists, attributes and labels of the file, if this cp knows of them.
put_back() {{
    rm -f "$draft" || return 1
    if ln "$entry/content" "$draft" 2>/dev/null; then
        mv -f "$draft" "$path"
    elif [ -e "$spare" ] && same "$entry/content" "$spare"; then
        mv -f "$spare" "$path"
    elif cp -a "$entry/content" "$draft" && sync; then
        mv -f "$draft" "$path"
    elif [ "$(stat -c %d "$entry/content")" = "$(stat -c %d "${{path%/*}}")" ]; then
        rm -f "$draft"
        mv -f "$entry/content" "$path"
    else
        return 1
    fi
}}

# Keep `postconf -e` from main.cf or master.cf while it is restored, by its own lock; not for ever, when it hangs.
keep_out() {{
    locked=
    case ${{path##*/}} in main.cf|master.cf) ;; *) return 0 ;; esac
    command -v flock >/dev/null || return 0
    tries=0
    while [ $tries -lt {patience} ]; do
        tries=$((tries + 1))
        # A redirection of exec that fails ends the script.
        true >>"$path.tmp" || return 0
        exec 7>>"$path.tmp"
        if flock -n 7 && [ "$path.tmp" -ef /proc/self/fd/7 ]; then
            locked=$path.tmp
            return 0
        fi
        exec 7>&-
        sleep 1
    done
}} 2>/dev/null

let_in() {{
    [ -n "$locked" ] || return 0
    rm -f "$locked"
    exec 7>&-
}}

# Restore one entry.
restore() {{
    kept=
    [ -n "$path" ] && [ -e "$entry/kind" ] || return 1
    draft=${{path%/*}}/.${{path##*/}}{new}
    spare=${{path%/*}}/.${{path##*/}}{old}
    case $(cat "$entry/kind") in
        file)
            moved || same "$entry/content" "$path" ||
                {{ sound && keep && put_back; }} || {{ rm -f "$draft"; return 1; }}
            rm -f "$draft" "$spare" ;;
        absent)
            if [ -e "$path" ] || [ -L "$path" ]; then keep && rm -f "$path" || return 1; fi
            rm -f "$draft" 2>/dev/null ;;
        directory)
            # Those of /run are gone after a boot.
            [ -d "$path" ] || return 0
            [ "$(rights "$path")" = "$(cat "$entry/owner") $(cat "$entry/mode")" ] ||
                {{ chown "$(cat "$entry/owner")" "$path" && chmod "$(cat "$entry/mode")" "$path"; }} ;;
        no-directory)
            for name in $(cat "$entry/runtime" 2>/dev/null); do rm -f "$path/$name"; done
            rm -f "$path"/.*{new}
            rmdir "$path" 2>/dev/null || [ ! -d "$path" ] && return 0
            [ -n "$(ls -A "$path")" ] && echo "postfix_mta: $path stays, as there is something in it" ;;
        command)
            # One that was not done, or is undone, cannot be undone; then there is no evidence of it. Of one that
            # takes the evidence away there is.
            sh "$entry/undo" >/dev/null 2>&1 && return 0
            [ -e "$entry/pattern" ] || return 0
            grep -qP -f "$entry/pattern" "$(cat "$entry/in")" 2>/dev/null
            found=$?
            if [ -e "$entry/removes" ]; then
                [ $found = 0 ]
            else
                [ $found = 1 ] || [ ! -e "$(cat "$entry/in")" ]
            fi ;;
        *)
            return 1 ;;
    esac
}}

# Bring the daemons to the restored files and to the state in which they were.
bring_back() {{
    [ -d "{systemd_runs}" ] || return 0
    [ -z "$units" ] || systemctl daemon-reload
    [ -e "$journal/services" ] || return 0
    while read -r service active enabled; do
        started=
        if [ "$enabled" = no ] && systemctl --quiet is-enabled "$service"; then
            systemctl disable "$service"
            started=1
        fi
        if [ "$way" = boot ]; then
            # It would have started at this boot.
            [ "$active$started" != no1 ] || systemctl --no-block stop "$service"
        elif [ "$active" = yes ]; then
            systemctl reset-failed "$service"
            systemctl restart "$service"
        else
            systemctl stop "$service"
        fi
    done <"$journal/services" >/dev/null 2>&1
}}

# Deliveries are held while an apply stops Postfix. Processes of containers are none of ours.
let_deliver() {{
    for process in /proc/[0-9]*; do
        read -r name <"$process/comm" || continue
        [ "$name" = qmgr ] && [ "$process/ns/pid" -ef /proc/self/ns/pid ] && kill -CONT "${{process#/proc/}}"
    done 2>/dev/null
}}

[ -d "$journal" ] || exit 0
exec 8>>"$state/lock"
if [ "$way" = watch ]; then
    [ -e "$journal/alive" ] || exit 0
    exec 9<"$journal/alive"
    flock 9 || exit 1
    # Ended, and committed or undone, it is another file or none.
    [ "$journal/alive" -ef /proc/self/fd/9 ] || exit 0
    flock 8 || exit 1
    [ "$journal/alive" -ef /proc/self/fd/9 ] || exit 0
elif command -v flock >/dev/null && ! flock -n 8; then
    echo "postfix_mta: an apply is under way; nothing was done"
    exit 1
fi
if [ -e "$journal/version" ] && [ "$(cat "$journal/version")" != {version} ]; then
    echo "postfix_mta: nothing was done: the journal is of version $(cat "$journal/version"), not {version}"
    exit 1
fi

echo "postfix_mta: undoing an apply that has not ended"
if [ "$way" != boot ]; then
    let_deliver
    [ ! -e "$journal/halted" ] || systemctl stop postfix >/dev/null 2>&1
fi
for entry in $(ls -r "$journal"); do
    number=$entry
    case $number in *[!0-9]*) continue ;; esac
    entry=$journal/$number
    path=$(cat "$entry/path" 2>/dev/null)
    case $path in "{unit_dir}"/*) units=1 ;; esac
    keep_out
    restore
    restored=$?
    let_in
    if [ $restored = 0 ]; then
        [ -z "$kept" ] || echo "postfix_mta: $path has been edited meanwhile; that version is now $kept"
    else
        # What has not been replaced needs no other name.
        [ -z "$kept" ] || ! cmp -s "$kept" "$path" || rm -f "$kept"
        failed="$failed $number"
        echo "postfix_mta: ${{path:-a damaged entry}} could not be restored; see $aside/$number"
    fi
done
sync
bring_back
# For the next start of the minion: somebody wanted that apply.
echo >"$state/{cut_off}" || true
if [ -n "$failed" ]; then
    mv "$journal" "$aside" || exit 1
    for number in $(ls -A "$aside"); do
        case "$failed " in *" $number "*) ;; *) rm -rf "${{aside:?}}/$number" ;; esac
    done
else
    rm -rf "$state/.journal"
    mv "$journal" "$state/.journal" || exit 1
    rm -rf "$state/.journal"
fi
sync
rm -f "{unit_dir}/{unit}" "{unit_dir}/multi-user.target.wants/{unit}" "$state/recover.sh"
[ -z "$failed" ]
"""


def script(state_dir: Path, unit_dir: Path = UNIT_DIR, systemd_runs: Path = SYSTEMD_RUNS) -> str:
    """Return the text of the script for a state directory; the other two are the host's."""
    names = {"edited": EDITED, "not_restored": NOT_RESTORED, "unit": BOOT_UNIT, "version": VERSION}
    names.update(new=NEW, old=OLD, cut_off=CUT_OFF, patience=str(EDIT_PATIENCE))
    return TEXT.format(state_dir=state_dir, unit_dir=unit_dir, systemd_runs=systemd_runs, **names)


def arm(minion: Minion) -> None:
    """
    Write the script, and under systemd install the unit that runs it at the next boot. Raises ``OSError``.
    """
    state_dir = minion.state.path()
    _mta_system.switch(os.path.join(state_dir, SCRIPT), script(state_dir, UNIT_DIR), -1, -1, 0o700)
    if not os.path.isdir(SYSTEMD_RUNS):
        return
    unit = pathlib.Path(UNIT_DIR) / BOOT_UNIT
    _mta_system.switch(unit, UNIT_TEXT.format(state_dir=state_dir), 0, 0, 0o644)
    wants = pathlib.Path(UNIT_DIR) / "multi-user.target.wants"
    with contextlib.suppress(FileExistsError):
        _mta_system.host.mkdir(wants, 0o755)
    with contextlib.suppress(FileExistsError):
        _mta_system.host.symlink(str(unit), wants / BOOT_UNIT)
    _mta_system.host.sync(wants)


def disarm(minion: Minion) -> None:
    """Take the unit and the script away. What stays does nothing without a journal."""
    unit_dir = pathlib.Path(UNIT_DIR)
    wanted = unit_dir / "multi-user.target.wants" / BOOT_UNIT
    for path in (wanted, unit_dir / BOOT_UNIT, pathlib.Path(minion.state.path(SCRIPT))):
        if os.path.lexists(path):
            try:
                _mta_system.host.unlink(path)
            except OSError as err:
                log.warning("Cannot remove %s: %s", path, err)


def watch(minion: Minion) -> None:
    """
    Under systemd have the script wait, outside of Salt, for the end of this apply: if it dies, it is undone.

    Where that cannot be had the next apply or the next boot undoes it.
    """
    if not os.path.isdir(SYSTEMD_RUNS):
        return
    unit = f"--unit=postfix-mta-watch-{os.getpid()}-{os.urandom(4).hex()}"
    about = "--description=Undo a postfix_mta apply that dies"
    command = ["/bin/sh", minion.state.path(SCRIPT), "watch"]
    try:
        _mta_system.host.run(["systemd-run", "--quiet", "--collect", "--no-block", unit, about, *command])
    except CommandExecutionError as err:
        log.warning("Nothing watches this apply; should it die, the next one undoes it: %s", err)
