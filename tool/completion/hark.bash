# bash completion for hark: verbs, their options, models, engines, boxes; beyond them, files.
# Installed as .../bash-completion/completions/hark; the end-to-end tests compare it with every --help.

_hark_options() {
	case $1 in
	serve) echo "--model --workers --engine --max-conns --timeout --lifetime --grace --backlog --reuseport --v6only" \
		"--unix-mode --unix-owner --stack --files --wait --verbose --json --help" ;;
	call) echo "--verbose --timeout --idle --wait --local --reserved-port --crlf --lines --send-only --recv-only --help" ;;
	ping) echo "--udp --count --interval --size --timeout --port --quiet --json --help" ;;
	daytime | time | users) echo "--udp --port --timeout --tries --json --help" ;;
	loggedin) echo "--port --timeout --tries --json --help" ;;
	status) echo "--watch --json --control --timeout --help" ;;
	reload | stop | start | drain | upgrade) echo "--control --timeout --json --help" ;;
	config) echo "--check --keys --help" ;;
	import) echo "--format --output --check --report --json --help" ;;
	esac
}

# The services of the harkd that runs here, if one does.
_hark_services() {
	"${COMP_WORDS[0]}" status --json --timeout 500ms 2>/dev/null | grep -o '"name":"[A-Za-z0-9._-]*"' | cut -d'"' -f4
}

_hark() {
	local verbs="serve call ping daytime time users loggedin config import status reload stop start drain upgrade"
	local boxes="echo discard chargen daytime time qotd users loggedin message exec relay"
	local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} verb=${COMP_WORDS[1]}

	COMPREPLY=()
	if [[ $COMP_CWORD -eq 1 ]]; then
		COMPREPLY=($(compgen -W "$verbs help --help --version" -- "$cur"))
		return
	fi
	case $prev in
	help) COMPREPLY=($(compgen -W "$verbs" -- "$cur")) ; return ;;
	--model) COMPREPLY=($(compgen -W "inline process thread fiber" -- "$cur")) ; return ;;
	--engine) COMPREPLY=($(compgen -W "epoll uring poll" -- "$cur")) ; return ;;
	--format) COMPREPLY=($(compgen -W "inetd xinetd systemd" -- "$cur")) ; return ;;
	--unix-owner) COMPREPLY=($(compgen -u -- "$cur")) ; return ;;
	--port) COMPREPLY=($(compgen -s -- "$cur")) ; return ;;
	--control) COMPREPLY=($(compgen -f -- "$cur")) ; return ;;
	esac
	if [[ $cur == -* ]]; then
		COMPREPLY=($(compgen -W "$(_hark_options "$verb")" -- "$cur"))
	elif [[ $verb == serve && $prev == -- ]]; then
		COMPREPLY=($(compgen -c -- "$cur"))
	elif [[ $verb == serve && $COMP_CWORD -gt 2 && $cur != *:* ]]; then
		COMPREPLY=($(compgen -W "$boxes" -- "$cur"))
	elif [[ $verb == status || $verb == stop || $verb == start ]]; then
		COMPREPLY=($(compgen -W "$(_hark_services)" -- "$cur"))
	elif [[ $verb == reload || $verb == drain || $verb == upgrade ]]; then
		return
	elif [[ $verb == import || $verb == config ]]; then
		COMPREPLY=($(compgen -f -- "$cur"))
	elif [[ $verb != serve && $cur != *:* ]]; then
		COMPREPLY=($(compgen -A hostname -- "$cur"))
	fi
}

complete -o default -F _hark hark
