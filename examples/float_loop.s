// A loop in floating point: sums of a series in all sixteen vector registers, both halves in use.
//
// pushcall: entry=main·loop

#include "textflag.h"

#define ROUNDS 30

DATA	main·ones+0(SB)/8, $1.0
DATA	main·ones+8(SB)/8, $0.5
GLOBL	main·ones(SB), RODATA|NOPTR, $16

#define SPREAD(to, from) \
	MOVUPS	from, to \
	ADDPD	X0, to

TEXT main·loop(SB), NOSPLIT, $0-0
	MOVUPS	main·ones(SB), X0
	SPREAD(X1, X0)
	SPREAD(X2, X1)
	SPREAD(X3, X2)
	SPREAD(X4, X3)
	SPREAD(X5, X4)
	SPREAD(X6, X5)
	SPREAD(X7, X6)
	SPREAD(X8, X7)
	SPREAD(X9, X8)
	SPREAD(X10, X9)
	SPREAD(X11, X10)
	SPREAD(X12, X11)
	SPREAD(X13, X12)
	SPREAD(X14, X13)
	SPREAD(X15, X14)
	MOVL	$ROUNDS, CX
loop:
	MOVAPD	X0, X1
	DIVPD	X15, X1
	ADDPD	X1, X2
	MULPD	X2, X3
	SUBPD	X3, X4
	ADDPD	X4, X5
	SQRTPD	X5, X6
	ADDPD	X6, X7
	MAXPD	X7, X8
	ADDPD	X8, X9
	MINPD	X9, X10
	ADDPD	X10, X11
	DIVPD	X11, X12
	ADDPD	X12, X13
	UNPCKHPD	X13, X14
	ADDPD	X14, X15
	DECL	CX
	JNE	loop
	RET
