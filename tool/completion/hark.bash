# bash completion for hark: verbs, their options, models, engines, boxes and theirs, programs; beyond them, files. And
# for harkd. Installed as .../bash-completion/completions/hark and harkd; the end-to-end tests compare it with every
# --help.
#
# Readline takes ':' and '=' for words of their own: tcp://*:7 is "tcp" ":" "//*" ":" "7", and --model=fiber three
# words.

_hark_options() {
	local tls="--ca --cert --key --alpn --server-name --insecure"
	case $1 in
	serve) echo "--verbose --json --once --daemon --files --unix-mode --unix-owner --wait" \
		"--banner --model --workers --engine --stack --first --idle-timeout --keepalive" \
		"--user-timeout --lifetime --grace --backlog --reuseport --v6only --freebind" \
		"--defer-accept --proxy-from --proxy-direct --proxy-timeout --max-conns --max-per-source" \
		"--max-sessions-per-source --source-prefix" \
		"--rate --rate-per-source --max-load --max-handshakes --cert --key --client-ca --client-cert" \
		"--client-crl --tls-min --alpn --tls-handshake-timeout --tls-tickets" \
		"--user --group --groups --chroot --directory --umask" \
		"--nice --rlimit-as --rlimit-core --rlimit-cpu --rlimit-data --rlimit-fsize" \
		"--rlimit-locks --rlimit-memlock --rlimit-msgqueue --rlimit-nice --rlimit-nofile" \
		"--rlimit-nproc --rlimit-rss --rlimit-rtprio --rlimit-rttime --rlimit-sigpending" \
		"--rlimit-stack --env --pass-env --socket-user --socket-group --socket-mode --help" ;;
	call) echo "--verbose --json --udp --unix --ipv4 --ipv6 --numeric --connect-timeout --idle-timeout --quit" \
		"--wait --local --source-port --reserved-port --crlf --lines --count --half-close --no-half-close" \
		"--send-only --recv-only --raw --listen --keep-open --scan $tls --help" ;;
	ping) echo "--udp --count --interval --size --timeout --port --quiet --json $tls --help" ;;
	daytime | time | users) echo "--udp --port --timeout --tries --json $tls --help" ;;
	loggedin) echo "--port --timeout --tries --json $tls --help" ;;
	status) echo "--watch --json --control --timeout --help" ;;
	reload) echo "--dry-run --force --control --timeout --json --help" ;;
	cert) echo "--ca --json --control --timeout --help" ;;
	connections) echo "--local --control --timeout --json --help" ;;
	close | stop | start | drain) echo "--control --timeout --json --help" ;;
	upgrade) echo "--no-wait --control --timeout --json --help" ;;
	config) echo "--check --keys --help" ;;
	import) echo "--format --output --check --report --json --help" ;;
	esac
}

_hark_box_options() {
	echo --help
	case $1 in
	echo) echo "--any-port" ;;
	chargen | message) echo "--any-port --longer" ;;
	time) echo "--any-port --answers" ;;
	daytime) echo "--nist --any-port --answers" ;;
	qotd) echo "--file --any-port --longer" ;;
	users | loggedin) echo "--utmp --any-port --longer" ;;
	exec) echo "--stdin --stderr --lookup-host --argv0 --stop-ladder --until-eof" ;;
	relay)
		echo "--connect-timeout --retry-after --hello-timeout --send-proxy --local"
		echo "--ca --insecure --server-name --target-cert --target-key --target-alpn" ;;
	esac
}

# The services of the harkd that runs here, if one does.
_hark_services() {
	"${COMP_WORDS[0]}" status --json --timeout 500ms 2>/dev/null |
		grep -o '"name":"[A-Za-z0-9._-]*"' | cut -d'"' -f4
}

# Where on a line of hark serve the box stands, or the "--" before a program: its word in $box, its place in $at.
# Nothing yet: $box is empty. localhost:echo and echo:7 are addresses. ./mine.so is a box, too: of its options nothing
# is known, as it is not loaded here.
_hark_find_box() {
	local i word
	box= at=0
	for ((i = 2; i < COMP_CWORD; i++)); do
		word=${COMP_WORDS[i]}
		if [[ $word == -- || ((" $boxes " == *" $word "* || $word == */*.so) && ${COMP_WORDS[i-1]} != [:=] &&
			${COMP_WORDS[i+1]} != : && ${COMP_WORDS[i-1]} != --unix-owner) ]]; then
			box=$word at=$i
			return
		fi
	done
}

# What follows the box at $at, or a "--" there. A program's own arguments are files, for want of better knowledge.
_hark_after_box() {
	local i=$((at + 1))
	if [[ $box == exec ]]; then
		while [[ $i -lt $COMP_CWORD && ${COMP_WORDS[i]} == -* ]]; do
			case ${COMP_WORDS[i]} in
			--stdin | --argv0 | --stop-ladder | --term-after | --kill-after)
				[[ ${COMP_WORDS[i+1]} == = ]] && i=$((i + 2)) || i=$((i + 1))
				;;
			esac
			i=$((i + 1))
		done
	fi
	if [[ $box == -- || $box == exec ]] && [[ $i -lt $COMP_CWORD ]]; then
		return
	elif [[ $cur == -* ]]; then
		COMPREPLY=($(compgen -W "$(_hark_box_options "$box")" -- "$cur"))
	elif [[ $i -eq $COMP_CWORD && ($box == -- || $box == exec) ]]; then
		COMPREPLY=($(compgen -c -- "$cur"))
	fi
}

_hark() {
	local verbs="serve call ping daytime time users loggedin config import status connections close cert"
	verbs+=" reload stop start drain upgrade"
	local boxes="echo discard chargen daytime time qotd users loggedin message exec relay tcpmux"
	local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} verb=${COMP_WORDS[1]} box at

	COMPREPLY=()
	if [[ $COMP_CWORD -eq 1 ]]; then
		COMPREPLY=($(compgen -W "$verbs help --help --version" -- "$cur"))
		return
	fi
	if [[ $cur == = ]]; then
		cur=
	elif [[ $prev == = ]]; then
		prev=${COMP_WORDS[COMP_CWORD-2]}
	fi
	if [[ $verb == serve ]]; then
		_hark_find_box
		if [[ -n $box ]]; then
			_hark_after_box
			return
		fi
	fi
	case $prev in
	help) COMPREPLY=($(compgen -W "$verbs" -- "$cur")) ; return ;;
	--model) COMPREPLY=($(compgen -W "inline process thread fiber" -- "$cur")) ; return ;;
	--engine) COMPREPLY=($(compgen -W "epoll uring poll" -- "$cur")) ; return ;;
	--format) COMPREPLY=($(compgen -W "inetd xinetd systemd" -- "$cur")) ; return ;;
	--first) COMPREPLY=($(compgen -W "client server" -- "$cur")) ; return ;;
	--unix-owner | --user | --socket-user) COMPREPLY=($(compgen -u -- "$cur")) ; return ;;
	--group | --groups | --socket-group) COMPREPLY=($(compgen -g -- "$cur")) ; return ;;
	--chroot | --directory) COMPREPLY=($(compgen -d -- "$cur")) ; return ;;
	--port | --source-port) COMPREPLY=($(compgen -s -- "$cur")) ; return ;;
	--control | --ca | --cert | --key) COMPREPLY=($(compgen -f -- "$cur")) ; return ;;
	esac
	if [[ $cur == -* ]]; then
		COMPREPLY=($(compgen -W "$(_hark_options "$verb")" -- "$cur"))
	elif [[ $verb == serve && $COMP_CWORD -gt 2 && $cur != *:* ]]; then
		COMPREPLY=($(compgen -W "$boxes" -- "$cur"))
	elif [[ $verb == status || $verb == connections || $verb == cert || $verb == stop || $verb == start ]]; then
		COMPREPLY=($(compgen -W "$(_hark_services)" -- "$cur"))
	elif [[ $verb == close || $verb == reload || $verb == drain || $verb == upgrade ]]; then
		return
	elif [[ $verb == import || $verb == config ]]; then
		COMPREPLY=($(compgen -f -- "$cur"))
	elif [[ $verb == loggedin && $COMP_CWORD -eq 2 ]]; then
		COMPREPLY=($(compgen -u -- "$cur"))
	elif [[ $verb != serve && $cur != *:* ]]; then
		COMPREPLY=($(compgen -A hostname -- "$cur"))
	fi
}

_harkd() {
	COMPREPLY=()
	if [[ ${COMP_WORDS[COMP_CWORD]} == -* ]]; then
		local options="--config --inetd --test --foreground --daemon --pid-file --control --help --version"
		COMPREPLY=($(compgen -W "$options" -- "${COMP_WORDS[COMP_CWORD]}"))
	fi
}

complete -o default -F _hark hark
complete -o default -F _harkd harkd
