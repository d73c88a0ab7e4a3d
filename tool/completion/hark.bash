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
	esac
}

_hark() {
	local verbs="serve call ping daytime time users loggedin"
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
	--unix-owner) COMPREPLY=($(compgen -u -- "$cur")) ; return ;;
	--port) COMPREPLY=($(compgen -s -- "$cur")) ; return ;;
	esac
	if [[ $cur == -* ]]; then
		COMPREPLY=($(compgen -W "$(_hark_options "$verb")" -- "$cur"))
	elif [[ $verb == serve && $prev == -- ]]; then
		COMPREPLY=($(compgen -c -- "$cur"))
	elif [[ $verb == serve && $COMP_CWORD -gt 2 && $cur != *:* ]]; then
		COMPREPLY=($(compgen -W "$boxes" -- "$cur"))
	elif [[ $verb != serve && $cur != *:* ]]; then
		COMPREPLY=($(compgen -A hostname -- "$cur"))
	fi
}

complete -o default -F _hark hark
